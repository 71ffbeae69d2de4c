//! The kinds of statement and their numbers, frozen with the first release.

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// What kind of fact a statement states. What its detail holds is decided by who issues that kind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Kind {
            /// Every kind, by ascending number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The number in the signed bytes.
            pub const fn number(self) -> u64 {
                match self {
                    $(Self::$variant => $number,)*
                }
            }

            /// The kind of that number, `None` when there is none.
            pub const fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The kind in lower-case words.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A provider offers a content for a transfer.
    Offer = 1, "offer";
    /// A consumer accepts an offer.
    Accept = 2, "accept";
    /// A consumer acknowledges verified groups.
    Ack = 3, "ack";
    /// A provider releases the key of a sealed transfer.
    KeyRelease = 4, "key release";
    /// Both sides are done with a transfer.
    Final = 5, "final";
    /// A consumer complains about a sealed transfer.
    Complaint = 6, "complaint";
    /// A transfer is abandoned.
    Abort = 7, "abort";
    /// A third party resolves a dispute.
    Resolve = 8, "resolve";
    /// Data was used.
    Usage = 9, "usage";
    /// Data was destroyed.
    Destroy = 10, "destroy";
    /// A destruction is confirmed.
    Confirm = 11, "confirm";
    /// A key was introduced, replaced or revoked.
    KeyEvent = 12, "key event";
    /// The root over a batch of statements that are signed together.
    Batch = 13, "batch";
    /// A segment of a sealed transfer.
    Seal = 14, "seal";
    /// An entity asks to be enrolled.
    Enrolment = 16, "enrolment";
    /// A registrar binds an id to keys and roles.
    Credential = 17, "credential";
    /// A list of trusted roots.
    Roots = 18, "roots";
    /// A list of revocations.
    Status = 19, "status";
    /// A resource or product is registered.
    Registration = 20, "registration";
    /// A registrar certifies a registered resource or product.
    AssetCertificate = 21, "asset certificate";
    /// A product is listed with its terms.
    Listing = 22, "listing";
    /// A node says where it can be reached.
    Address = 23, "address";
    /// A consumer asks for a contract.
    ContractRequest = 24, "contract request";
    /// A provider offers a contract.
    ContractOffer = 25, "contract offer";
    /// A consumer accepts a contract.
    ContractAcceptance = 26, "contract acceptance";
    /// The terms that both sides sign.
    Agreement = 27, "agreement";
    /// A consumer has verified an agreement.
    Verification = 28, "verification";
    /// A contract is in force.
    Finalisation = 29, "finalisation";
    /// A negotiation or contract is ended.
    Termination = 30, "termination";
    /// A request is refused.
    Refusal = 31, "refusal";
    /// The bytes of an entry were removed from the issuer's own ledger.
    Redaction = 32, "redaction";
    /// The checkpoints of other ledgers that the issuer had verified at one moment (log of logs).
    Logs = 33, "logs";
    /// A party suspends a contract.
    Suspension = 34, "suspension";
    /// A party takes back its suspension of a contract.
    Resumption = 35, "resumption";
}
