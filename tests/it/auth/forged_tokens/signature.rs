//! Forged tokens: the signature is missing, changed, of another token, or of another key.

use std::cell::RefCell;

use crate::support::{
    auth::{HeaderClient, server_with_key, valid_token},
    signing::{Token, base64, rsa},
    token_rows::{KeyPairs, Row},
};
use http::HeaderValue;
use proptest::{prelude::*, test_runner::TestRunner};
use tonic::Code;

pub(super) fn rows(keys: &KeyPairs) -> Vec<Row> {
    let signed = valid_token().sign(rsa());
    let (message, signature) = signed.rsplit_once('.').unwrap();
    let other = valid_token().claim("sub", "\"other\"").sign(rsa());
    let (other_message, other_signature) = other.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let (_, other_claims) = other_message.split_once('.').unwrap();
    let ed = Token::new(&keys.ed).sign(&keys.ed);
    let ec = Token::new(&keys.ec).sign(&keys.ec);
    let zeros = Token::new(&keys.ec).with_signature(&base64(&[0; 64]));
    let half = base64(&[[1; 32], [0; 32]].concat());
    // The last character encodes two bits, and four that have to be zero.
    let last = non_canonical(&signed);
    vec![
        Row::bearer("no signature", message),
        Row::bearer("empty signature", &format!("{message}.")),
        Row::bearer(
            "half a signature",
            &format!("{message}.{}", &signature[..171]),
        ),
        Row::bearer("a signature short of a byte", &signed[..signed.len() - 2]),
        Row::bearer(
            "a signature short of a character",
            &signed[..signed.len() - 1],
        ),
        Row::bearer("a longer signature", &format!("{signed}AA")),
        Row::bearer("swapped signature", &format!("{message}.{other_signature}")),
        Row::bearer(
            "swapped claims",
            &format!("{header}.{other_claims}.{signature}"),
        ),
        Row::bearer(
            "swapped header",
            &format!(
                "{}.{claims}.{signature}",
                base64(br#"{"typ":"at+jwt","alg":"RS256","kid":"ec"}"#)
            ),
        ),
        Row::bearer(
            "bit flipped",
            &format!("{message}.{}", flip_first_bits(signature)),
        ),
        Row::bearer("bit flipped, P-256", &flip_last_part(&ec)),
        Row::bearer("bit flipped, Ed25519", &flip_last_part(&ed)),
        Row::bearer("signature not canonical", &last),
        Row::bearer("signature not canonical, P-256", &non_canonical(&ec)),
        Row::bearer("signature not canonical, Ed25519", &non_canonical(&ed)),
        Row::bearer("signature padded", &format!("{signed}==")),
        Row::bearer(
            "signature in the other alphabet",
            &format!("{message}.{}", other_alphabet(signature)),
        ),
        Row::bearer("header padded", &format!("{header}=.{claims}.{signature}")),
        Row::bearer("claims padded", &format!("{header}.{claims}=.{signature}")),
        Row::bearer("all zeros, P-256", &zeros),
        Row::bearer(
            "s is zero, P-256",
            &Token::new(&keys.ec).with_signature(&half),
        ),
        Row::bearer(
            "another key of that name",
            &valid_token().sign(&keys.attacker_rsa),
        ),
        Row::bearer(
            "another kind of key of that name",
            &Token::new(&keys.attacker_ec).sign(&keys.attacker_ec),
        ),
        Row::bearer(
            "another key, none named",
            &valid_token().without_header("kid").sign(&keys.attacker_rsa),
        ),
        Row::bearer(
            "constant bytes as the signature",
            &format!("{message}.{}", base64(&[7; 256])),
        ),
    ]
}

fn flip_first_bits(signature: &str) -> String {
    let first = if signature.starts_with('A') { "B" } else { "A" };
    format!("{first}{}", &signature[1..])
}

fn flip_last_part(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap();
    format!("{message}.{}", flip_first_bits(signature))
}

/// Encodes the same bytes in a non-canonical way.
fn non_canonical(token: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut token = token.as_bytes().to_vec();
    let last = token.last_mut().unwrap();
    let place = ALPHABET.iter().position(|c| c == last).unwrap();
    *last = ALPHABET[place + 1];
    String::from_utf8(token).unwrap()
}

/// Encodes a signature with the standard alphabet of base64.
fn other_alphabet(signature: &str) -> String {
    let other = signature.replace('-', "+").replace('_', "/");
    match other == signature {
        true => format!("+{}", &signature[1..]),
        false => other,
    }
}

/// A change of one character.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(u8),
    Insert(u8),
    Delete,
    Repeat,
}

#[test]
fn mutated_token_is_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = server_with_key(rsa());
    let caller = runtime.block_on(HeaderClient::connect(&server));
    let caller = RefCell::new(caller);
    let signed = valid_token().sign(rsa());
    let mutation = prop_oneof![
        (0..7_u8).prop_map(Mutation::Flip),
        (b'!'..=b'~').prop_map(Mutation::Insert),
        Just(Mutation::Delete),
        Just(Mutation::Repeat),
    ];
    let mutations = prop::collection::vec((any::<prop::sample::Index>(), mutation), 1..4);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(1000));
    let outcome = runner.run(&mutations, |mutations| {
        let mut text = signed.clone().into_bytes();
        for (index, mutation) in mutations {
            let place = index.index(text.len());
            match mutation {
                Mutation::Flip(bit) => text[place] ^= 1 << bit,
                Mutation::Insert(byte) => text.insert(place, byte),
                Mutation::Delete => drop(text.remove(place)),
                Mutation::Repeat => text.insert(place, text[place]),
            }
        }
        let header = [b"Bearer ", &text[..]].concat();
        let Ok(header) = HeaderValue::from_bytes(&header) else {
            return Ok(());
        };
        let wanted = match text == signed.as_bytes() {
            true => Code::Ok,
            false => Code::Unauthenticated,
        };
        prop_assert_eq!(
            runtime.block_on(caller.borrow_mut().greeting_code(&[header])),
            wanted
        );
        Ok(())
    });
    outcome.unwrap();
}
