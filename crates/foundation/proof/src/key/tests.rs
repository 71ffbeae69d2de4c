use super::*;
use crate::entropy::SeededEntropy;

fn bytes<const N: usize>(hex_text: &str) -> [u8; N] {
    hex::decode(hex_text).unwrap().try_into().unwrap()
}

/// Seed 00 01 .. 1f; the values below that belong to it come from a separate implementation of RFC 8032.
fn counting_key() -> SigningKey {
    SigningKey::from_seed(&std::array::from_fn(|i| i as u8))
}

#[track_caller]
fn check_vector(seed: &str, public: &str, message: &str, signature: &str) {
    let key = SigningKey::from_seed(&bytes(seed));
    assert_eq!(hex::encode(key.verifying_key().as_bytes()), public);
    let message = hex::decode(message).unwrap();
    assert_eq!(hex::encode(key.sign(&message)), signature);
    let public = VerifyingKey::from_bytes(&bytes::<32>(public)).unwrap();
    assert_eq!(public.verify(&message, &bytes::<64>(signature)), Ok(()));
}

/// RFC 8032 section 7.1, tests 1 to 3.
#[test]
fn published_vectors() {
    check_vector(
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    );
    check_vector(
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    );
    check_vector(
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    );
}

#[track_caller]
fn check_refused(public: &str, expect: KeyError) {
    assert_eq!(VerifyingKey::from_bytes(&hex::decode(public).unwrap()), Err(expect), "{public}");
}

#[test]
fn keys_that_bind_nobody_are_refused() {
    // The eight points of low order.
    for low in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    ] {
        check_refused(low, KeyError::Order);
    }
    // A good key plus a point of order 8, 4 and 2.
    for mixed in [
        "b154bd62188ae283dd187fefe8c31f5e276edf083b4cff11c9d5cff856c74440",
        "62d5a653bcdb4ced227281ab7f0f2d1eebed4fb114b1aead9758cf56aeebd493",
        "ea5ef8400c31ef41e28f22e718b43f66981b29cf645af2a0e223799bedaace47",
    ] {
        check_refused(mixed, KeyError::Order);
    }
}

#[test]
fn other_encodings_of_keys_are_refused() {
    for bad in [
        // y not reduced: p, p + 1, p + 3; the sign bit of x = 0; y = 2 is on no point.
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "0200000000000000000000000000000000000000000000000000000000000000",
    ] {
        check_refused(bad, KeyError::Encoding);
    }
    let good = counting_key().verifying_key();
    assert_eq!(VerifyingKey::from_bytes(&good.as_bytes()[..31]), Err(KeyError::Length { found: 31 }));
    assert_eq!(
        VerifyingKey::from_bytes(&[&good.as_bytes()[..], b"x"].concat()),
        Err(KeyError::Length { found: 33 })
    );
    assert_eq!(VerifyingKey::from_bytes(good.as_bytes()), Ok(good));
}

#[test]
fn signatures_are_checked_strictly() {
    let key = counting_key();
    let public = key.verifying_key();
    let refused = Err(KeyError::Signature);
    // Satisfies the verification equation, but R is the neutral element.
    let low_r = "010000000000000000000000000000000000000000000000000000000000000065d4701376a12562771caf989b3749a236215a6c6da1d27eaf9e3700e670ca06";
    assert_eq!(public.verify(b"deny", &bytes::<64>(low_r)), refused);
    // The good signature with the group order added to S.
    let long_s = "cc46d62d3754f41754b27b6ea2cb2c272bafa7a5a1f6062bd060f414e50caaeaafae5c0a5431079b202d1b11880196ed057e3443dc5abfc9986967ee7213a417";
    assert_eq!(public.verify(b"abc", &bytes::<64>(long_s)), refused);

    let signature = key.sign(b"abc");
    assert_eq!(signature[..32], bytes::<64>(long_s)[..32]);
    assert_eq!(public.verify(b"abc", &signature), Ok(()));
    assert_eq!(public.verify(b"abd", &signature), refused);
    assert_eq!(public.verify(b"abc", &signature[..63]), refused);
    assert_eq!(public.verify(b"abc", &[&signature[..], b"\0"].concat()), refused);
    for byte in 0..64 {
        for bit in 0..8 {
            let mut altered = signature;
            altered[byte] ^= 1 << bit;
            assert_eq!(public.verify(b"abc", &altered), refused, "byte {byte}, bit {bit}");
        }
    }
}

#[test]
fn names_and_secrets() {
    let key = counting_key();
    let thumbprint = key.verifying_key().thumbprint();
    assert_eq!(thumbprint.to_string(), "cb39f0f6d246b033068073b728cf5b70a204cda3b1ccb17d8160d12dcd1a5ae3");
    assert_eq!(format!("{key:?}"), format!("SigningKey({thumbprint})"));
    assert_eq!(SigningKey::from_seed(&key.seed()).verifying_key(), key.verifying_key());
    let entropy = SeededEntropy::new(3);
    let (a, b) = (SigningKey::generate(&entropy), SigningKey::generate(&entropy));
    assert_ne!(a.verifying_key(), b.verifying_key());
}

#[test]
fn suite_numbers() {
    assert_eq!(Suite::Intl.number(), 1);
    for number in 0..300 {
        assert_eq!(Suite::from_number(number), (number == 1).then_some(Suite::Intl));
    }
}
