//! Forged tokens: not three parts of base64url, or not behind the scheme `Bearer`.

use crate::support::{
    auth::{HeaderClient, bearer_value, code, server_with_key, valid_token},
    methods::SAY_HELLO,
    signing::{base64, rsa},
    token_rows::{MAX_TOKEN_BYTES, Row, token_of_length},
    with_timeout,
};
use tonic::Code;

pub(super) fn with_wrong_parts() -> Vec<Row> {
    let signed = valid_token().sign(rsa());
    let parts: Vec<_> = signed.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        panic!("a token has three parts")
    };
    let jwe = base64(br#"{"alg":"RSA-OAEP","enc":"A256GCM","typ":"at+jwt","kid":"rsa"}"#);
    let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut rows = vec![
        Row::bearer("a dot in front", &format!(".{signed}")),
        Row::bearer("a dot behind", &format!("{signed}.")),
        Row::bearer("four parts", &format!("{signed}.{signature}")),
        Row::bearer("a token in a token", &format!("{signed}.{signed}")),
        Row::bearer(
            "five parts",
            &format!("{jwe}.{claims}.{claims}.{claims}.{claims}"),
        ),
        Row::bearer("encrypted", &format!("{jwe}.{claims}.{signature}")),
        Row::bearer("an empty part", &format!("{header}..{signature}")),
        Row::bearer("no header", &format!(".{claims}.{signature}")),
        Row::bearer("empty", ""),
        Row::bearer("a space inside", &format!("{header}. {claims}.{signature}")),
        Row::bearer(
            "a space at a dot",
            &format!("{header} .{claims}.{signature}"),
        ),
        Row::bearer("a tab inside", &format!("{header}.\t{claims}.{signature}")),
        Row::bearer("something behind", &format!("{signed} x")),
        Row::bearer("an attribute behind", &format!("{signed}, realm=\"x\"")),
        Row::bearer("quoted", &format!("\"{signed}\"")),
        Row::bearer("not of ASCII", &format!("{header}.{claims}.{signature}é")),
        Row::bearer("JSON", &valid_token().claim_text()),
        Row::bearer("an opaque token", "2YotnFZFEjr1zCsicMWpAA"),
        Row::bearer(
            "a header in UTF-16",
            &format!("{}.{claims}.{signature}", base64(&utf16)),
        ),
    ];
    for dots in 1..6 {
        rows.push(Row::bearer(format!("{dots} dots"), &".".repeat(dots)));
    }
    for length in [
        MAX_TOKEN_BYTES + 1,
        MAX_TOKEN_BYTES + 2,
        MAX_TOKEN_BYTES + 1000,
    ] {
        rows.push(Row::bearer(
            format!("{length} bytes"),
            &token_of_length(length),
        ));
    }
    rows
}

pub(super) fn with_wrong_scheme() -> Vec<Row> {
    let signed = valid_token().sign(rsa());
    let basic = base64(b"somebody:secret");
    let bearer = format!("Bearer {signed}");
    vec![
        Row::new("no header", &[]),
        Row::new("an empty header", &[""]),
        Row::new("no scheme", &[&signed]),
        Row::new("Basic", &[&format!("Basic {basic}")]),
        Row::new("Basic with the token", &[&format!("Basic {signed}")]),
        Row::new("DPoP", &[&format!("DPoP {signed}")]),
        Row::new("two spaces", &[&format!("Bearer  {signed}")]),
        Row::new("a tab", &[&format!("Bearer\t{signed}")]),
        Row::new("no space", &[&format!("Bearer{signed}")]),
        Row::new("a colon", &[&format!("Bearer: {signed}")]),
        Row::new("the scheme alone", &["Bearer"]),
        Row::new("the scheme and a space", &["Bearer "]),
        Row::new("the scheme twice", &[&format!("Bearer Bearer {signed}")]),
        Row::new("two good ones", &[&bearer, &bearer]),
        Row::new("a bad one and a good one", &["Bearer x", &bearer]),
        Row::new("a good one and a bad one", &[&bearer, "Bearer x"]),
        Row::new("a good one and an empty one", &[&bearer, ""]),
        Row::new(
            "a good one and Basic",
            &[&bearer, &format!("Basic {basic}")],
        ),
        Row::new("two in one", &[&format!("{bearer}, {bearer}")]),
        Row::new(
            "two in one, with one scheme",
            &[&format!("{bearer},{signed}")],
        ),
    ]
}

#[tokio::test]
async fn token_of_one_megabyte_is_harmless() {
    let server = server_with_key(rsa());
    let signed = valid_token()
        .claim("y", &format!("\"{}\"", "y".repeat(750_000)))
        .sign(rsa());
    let caller = HeaderClient::connect(&server).await;
    let request = caller.request(SAY_HELLO, &[bearer_value(&signed)]);
    let mut connection = caller.connection.clone();
    if let Ok((answer, _)) = connection.send_request(request, true)
        && let Ok(answer) = with_timeout(answer).await
    {
        assert!(!answer.status().is_success() || code(answer.headers()) != Code::Ok);
    }
    let mut caller = HeaderClient::connect(&server).await;
    assert_eq!(
        caller.greeting_code_with(&valid_token().sign(rsa())).await,
        Code::Ok
    );
}
