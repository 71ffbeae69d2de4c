use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::decide::Request;

/// The answer to one condition. `Unknown` is neither: the rule that asks decides what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Holds,
    Fails,
    Unknown,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Truth {
        if holds { Truth::Holds } else { Truth::Fails }
    }
}

/// A set of callers or products, named by one value of a constraint.
pub(crate) trait Element: fmt::Display {
    /// Whether the request lies in this set.
    fn matches(&self, request: &Request<'_>) -> Truth;

    /// Whether every request in `other` lies in this set, and one is known exactly when the other is.
    fn covers(&self, other: &Self) -> bool;

    /// Whether a request known to lie in one set is known not to lie in the other.
    fn is_disjoint(&self, other: &Self) -> bool;
}

/// A condition over a list of sets: the request lies in one of them, or in none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Membership<T> {
    AnyOf(Vec<T>),
    NoneOf(Vec<T>),
}

impl<T: Element> Membership<T> {
    pub(crate) fn test(&self, request: &Request<'_>) -> Truth {
        match self {
            Membership::AnyOf(set) => any(set, request),
            Membership::NoneOf(set) => match any(set, request) {
                Truth::Holds => Truth::Fails,
                Truth::Fails => Truth::Holds,
                Truth::Unknown => Truth::Unknown,
            },
        }
    }

    /// Whether this condition holds wherever all of `given` hold, and can only fail where one of `given` fails.
    pub(crate) fn follows_from(&self, given: &[&Membership<T>]) -> bool {
        match self {
            Membership::AnyOf(set) => given.iter().any(|condition| condition.implies_any_of(set)),
            Membership::NoneOf(set) => set.iter().all(|element| is_excluded(element, given)),
        }
    }

    /// Whether this condition fails wherever all of `given` hold.
    pub(crate) fn is_refuted_by(&self, given: &[&Membership<T>]) -> bool {
        match self {
            Membership::AnyOf(set) => set.iter().all(|element| is_excluded(element, given)),
            Membership::NoneOf(set) => given.iter().any(|condition| condition.implies_any_of(set)),
        }
    }

    fn implies_any_of(&self, set: &[T]) -> bool {
        match self {
            Membership::AnyOf(own) => own.iter().all(|element| set.iter().any(|whole| whole.covers(element))),
            Membership::NoneOf(_) => false,
        }
    }
}

fn any<T: Element>(set: &[T], request: &Request<'_>) -> Truth {
    let mut truth = Truth::Fails;
    for element in set {
        match element.matches(request) {
            Truth::Holds => return Truth::Holds,
            Truth::Unknown => truth = Truth::Unknown,
            Truth::Fails => {}
        }
    }
    truth
}

fn is_excluded<T: Element>(element: &T, given: &[&Membership<T>]) -> bool {
    given.iter().any(|condition| match condition {
        Membership::AnyOf(set) => set.iter().all(|other| other.is_disjoint(element)),
        Membership::NoneOf(set) => set.iter().any(|other| other.covers(element)),
    })
}

/// An IP network, or one address. IPv4-mapped IPv6 is IPv4; an IPv6 network never contains an IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    first: IpAddr,
    last: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads an address without a prefix length.
    pub(crate) fn parse_address(text: &str) -> Result<Network, String> {
        if text.contains('/') {
            return Err("is a network where one address is meant; use isA or isAnyOf for networks".to_owned());
        }
        Network::parse(text)
    }

    /// Reads an address, or a network in CIDR notation (RFC 4632 section 3.1, RFC 4291 section 2.3).
    pub(crate) fn parse(text: &str) -> Result<Network, String> {
        const MALFORMED: &str =
            "is not an IP address or network; write e.g. 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32";
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| MALFORMED)?;
        let width = width(address);
        let prefix = match prefix {
            None => width,
            Some(prefix) => {
                // `u8::from_str` alone would take `+8` and `08`.
                let is_plain = prefix.bytes().all(|byte| byte.is_ascii_digit())
                    && (prefix == "0" || !prefix.starts_with('0'));
                let prefix = prefix.parse().ok().filter(|prefix| is_plain && *prefix <= width);
                prefix.ok_or(MALFORMED)?
            }
        };
        let (address, prefix) = match (address.to_canonical(), prefix.checked_sub(96)) {
            (mapped @ IpAddr::V4(_), Some(shorter)) if address.is_ipv6() => (mapped, shorter),
            _ => (address, prefix),
        };
        let host_bits = host_bits(address, prefix);
        if number(address) & host_bits != 0 {
            let base = address_of(address, number(address) & !host_bits);
            return Err(format!(
                "has bits set beyond its prefix; write {base}/{prefix}, or the address alone"
            ));
        }
        Ok(Network { first: address, last: address_of(address, number(address) | host_bits), prefix })
    }
}

impl Element for Network {
    fn matches(&self, request: &Request<'_>) -> Truth {
        match request.address.map(|address| address.to_canonical()) {
            None => Truth::Unknown,
            Some(address) => Truth::from(
                self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last,
            ),
        }
    }

    fn covers(&self, other: &Network) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4() && self.first <= other.first && other.last <= self.last
    }

    fn is_disjoint(&self, other: &Network) -> bool {
        self.first.is_ipv4() != other.first.is_ipv4() || self.last < other.first || other.last < self.first
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == width(self.first) {
            return write!(formatter, "{}", self.first);
        }
        write!(formatter, "{}/{}", self.first, self.prefix)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn host_bits(address: IpAddr, prefix: u8) -> u128 {
    let length = u32::from(width(address).saturating_sub(prefix));
    u128::MAX.checked_shr(128_u32.saturating_sub(length)).unwrap_or(0)
}

/// The address with this number, of the same family as `like`.
fn address_of(like: IpAddr, number: u128) -> IpAddr {
    match like {
        // Fits: callers only set or clear bits below the width of the family.
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// A region by the first two (province) or four (prefecture) digits of its GB/T 2260-2007 code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RegionCode(String);

impl RegionCode {
    pub(crate) fn parse(text: &str) -> Result<RegionCode, String> {
        if !matches!(text.len(), 2 | 4) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(
                "is not a region; write the first two or four digits of its GB/T 2260 code, e.g. 43 or 4301"
                    .to_owned(),
            );
        }
        if text.starts_with("00") {
            return Err("is an industry segment, not a region; no place follows from it".to_owned());
        }
        Ok(RegionCode(text.to_owned()))
    }
}

impl Element for RegionCode {
    fn matches(&self, request: &Request<'_>) -> Truth {
        // A node registered by an industry node carries `00` and its industry: its place is not known.
        let known = request.region.filter(|region| {
            region.len() == 4 && region.bytes().all(|byte| byte.is_ascii_digit()) && !region.starts_with("00")
        });
        known.map_or(Truth::Unknown, |region| Truth::from(region.starts_with(&self.0)))
    }

    fn covers(&self, other: &RegionCode) -> bool {
        other.0.starts_with(&self.0)
    }

    fn is_disjoint(&self, other: &RegionCode) -> bool {
        !self.covers(other) && !other.covers(self)
    }
}

impl fmt::Display for RegionCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Who asks: a node by its 32-character id, or whatever node of an entity by the 18-character code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PartyName {
    Node(String),
    Entity(String),
}

impl PartyName {
    pub(crate) fn parse(text: &str) -> Result<PartyName, String> {
        if is_node_id(text) {
            return Ok(PartyName::Node(text.to_owned()));
        }
        if is_entity_code(text) {
            return Ok(PartyName::Entity(text.to_owned()));
        }
        Err("is not a party; write a node id of 32 or an entity code of 18 digits and capital letters"
            .to_owned())
    }
}

impl Element for PartyName {
    fn matches(&self, request: &Request<'_>) -> Truth {
        match self {
            PartyName::Node(id) if is_node_id(request.party) => Truth::from(request.party == id),
            PartyName::Entity(code) if is_entity_code(request.entity) => Truth::from(request.entity == code),
            PartyName::Node(_) | PartyName::Entity(_) => Truth::Unknown,
        }
    }

    fn covers(&self, other: &PartyName) -> bool {
        self == other
    }

    fn is_disjoint(&self, other: &PartyName) -> bool {
        match (self, other) {
            (PartyName::Node(one), PartyName::Node(other)) => one != other,
            (PartyName::Entity(one), PartyName::Entity(other)) => one != other,
            (PartyName::Node(_), PartyName::Entity(_)) | (PartyName::Entity(_), PartyName::Node(_)) => false,
        }
    }
}

impl fmt::Display for PartyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartyName::Node(text) | PartyName::Entity(text) => formatter.write_str(text),
        }
    }
}

/// A product or resource by its identifier: 32 characters, with an optional extension after `•` (U+2022).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProductName(String);

impl ProductName {
    pub(crate) fn parse(text: &str) -> Result<ProductName, String> {
        if is_data_id(text) {
            return Ok(ProductName(text.to_owned()));
        }
        Err("is not a product; write its identifier of 32 characters, which starts with 6 or 7".to_owned())
    }
}

impl Element for ProductName {
    fn matches(&self, request: &Request<'_>) -> Truth {
        if is_data_id(request.product) { Truth::from(self.0 == request.product) } else { Truth::Unknown }
    }

    fn covers(&self, other: &ProductName) -> bool {
        self == other
    }

    fn is_disjoint(&self, other: &ProductName) -> bool {
        self != other
    }
}

impl fmt::Display for ProductName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

// Only the shape is looked at here: it tells a name from a typing error. Whether an identifier's check character is
// right, and whether anyone holds it, is not this crate's to know.

fn is_node_id(text: &str) -> bool {
    is_code(text, 32) && matches!(text.as_bytes().first(), Some(b'1'..=b'5'))
}

fn is_entity_code(text: &str) -> bool {
    is_code(text, 18)
}

fn is_data_id(text: &str) -> bool {
    let (code, extension) = match text.split_once('•') {
        Some((code, extension)) => (code, Some(extension)),
        None => (text, None),
    };
    let has_good_extension = extension.is_none_or(|extension| {
        (1..=32).contains(&extension.chars().count()) && !extension.chars().any(char::is_control)
    });
    is_code(code, 32) && matches!(code.as_bytes().first(), Some(b'6' | b'7')) && has_good_extension
}

/// Digits and capital letters; the last character, the check, may also be `*` (GB/T 17710-2008, MOD 37-2).
fn is_code(text: &str, length: usize) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
    match text.as_bytes().split_last() {
        Some((check, code)) => {
            text.len() == length && code.iter().all(is_plain) && (is_plain(check) || *check == b'*')
        }
        None => false,
    }
}
