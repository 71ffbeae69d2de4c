//! Signature suites and statement keys.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::entropy::Entropy;

/// Which algorithms a statement is made with. The number stands inside the signed bytes, so it cannot be swapped.
///
/// Number 2 is kept for SM2, SM3 and SM4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Ed25519 signatures (RFC 8032) over SHA-256 digests.
    Intl,
}

impl Suite {
    /// The number by which signed bytes name the suite.
    pub const fn number(self) -> u64 {
        self.octet() as u64
    }

    /// The suite of that number, `None` when this node knows none.
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Intl),
            _ => None,
        }
    }

    /// The COSE algorithm number, as the `n` of the negative integer -1-n: Ed25519 is -19 (RFC 9864).
    pub(crate) const fn cose_algorithm(self) -> u64 {
        match self {
            Self::Intl => 18,
        }
    }

    const fn octet(self) -> u8 {
        match self {
            Self::Intl => 1,
        }
    }
}

/// A secret Ed25519 key. Wiped from memory when dropped; its debug form shows the public thumbprint only.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill(seed.as_mut_slice());
        Self::from_seed(&seed)
    }

    /// The key that belongs to a 32-byte seed (the private key of RFC 8032 section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, for storing. It is the whole secret.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs `message`. The same key and message always give the same 64 bytes (RFC 8032 section 5.1.6).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.verifying_key().thumbprint()).finish()
    }
}

/// A public Ed25519 key that can bind its owner: canonical, on the curve and in the prime-order group.
///
/// A key with a low-order part would accept one signature for several messages, which lets its owner deny later what
/// was signed; so it is refused when it enters, not when it is used.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

/// Keys that have been checked, a place for each by its first byte. The check is the same each time, costs as much as a signature, and
/// a node sees the keys of few others again and again.
static SEEN: [Mutex<Option<ed25519_dalek::VerifyingKey>>; SEEN_KEYS] =
    [const { Mutex::new(None) }; SEEN_KEYS];
const SEEN_KEYS: usize = 256;

impl VerifyingKey {
    /// Takes the 32 bytes of RFC 8032 section 5.1.2.
    ///
    /// # Errors
    /// [`KeyError::Length`], [`KeyError::Encoding`] for bytes that are no point or not its canonical encoding,
    /// [`KeyError::Order`] for a point of low or mixed order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyError::Length { found: bytes.len() })?;
        let slot = SEEN.get(usize::from(bytes[0]) % SEEN_KEYS);
        let seen = slot.and_then(|slot| *slot.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(key) = seen.filter(|key| key.as_bytes() == bytes) {
            return Ok(Self(key));
        }
        let key = Self::checked(bytes)?;
        if let Some(slot) = slot {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.0);
        }
        Ok(key)
    }

    fn checked(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Encoding)?;
        let point = key.to_edwards();
        if point.compress().as_bytes() != bytes {
            return Err(KeyError::Encoding);
        }
        if point.is_small_order() || !point.is_torsion_free() {
            return Err(KeyError::Order);
        }
        Ok(Self(key))
    }

    /// The 32 bytes of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Checks a 64-byte signature strictly: canonical S, canonical R that is not of low order, equality without cofactor.
    ///
    /// # Errors
    /// [`KeyError::Signature`] for anything else than this key's signature over exactly `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| KeyError::Signature)?;
        self.0.verify_strict(message, &signature).map_err(|_| KeyError::Signature)
    }

    /// The key id that statements carry: SHA-256 over the suite number as one byte and the public key.
    pub fn thumbprint(&self) -> Digest {
        Digest::sha256_parts(&[&[Suite::Intl.octet()], self.as_bytes()])
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifyingKey").field(&Digest::from_bytes(*self.as_bytes())).finish()
    }
}

impl Hash for VerifyingKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// Why a key or a signature was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A public key of another length.
    #[error("public key: expected 32 bytes, found {found}")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// The bytes are no curve point, or not the one encoding of it.
    #[error("public key: not the canonical encoding of a curve point")]
    Encoding,
    /// A point of low or mixed order, whose signatures do not bind the signer.
    #[error("public key: of low or mixed order, its signatures would bind nobody; generate a new key")]
    Order,
    /// The signature does not belong to this key and these bytes.
    #[error("signature does not match the key and the signed bytes")]
    Signature,
}

#[cfg(test)]
mod tests;
