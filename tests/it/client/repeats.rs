//! Uploads of the same file again, to a server that keeps the result of the earlier one.

use std::{
    fs::{self, File, FileTimes},
    future::IntoFuture,
};

use muxs::client::{self, AuthorizedChannel, Client, Credentials};

use crate::support::{
    TestServer,
    auth::{KeyFile, require_tokens, valid_token},
    scripted_server::without_retries,
    signing::rsa,
    transfer_dir::{EventLog, TransferDir},
    tree, with_timeout,
};

/// Uploads the source as `name`, and returns the events.
async fn upload(client: &Client, place: &TransferDir) -> Vec<String> {
    let events = EventLog::default();
    let upload = client.upload(place.source(), "name");
    let upload = upload.on_event(events.listener()).into_future();
    let sent = with_timeout(upload).await.unwrap();
    let size = fs::metadata(place.source()).unwrap().len();
    assert_eq!(sent.size, size);
    events.entries()
}

/// As `cp -p`, a program with SOURCE_DATE_EPOCH or one that writes through a memory map does.
#[tokio::test]
async fn source_rewritten_with_its_size_and_time_is_sent() {
    let place = TransferDir::new();
    let server = TestServer::start();
    let client = server.client().retry(without_retries());
    assert_eq!(upload(&client, &place).await, ["opened at 0"]);
    assert_eq!(upload(&client, &place).await, ["already there"]);

    let modified = fs::metadata(place.source()).unwrap().modified().unwrap();
    let changed: Vec<u8> = place.content.iter().map(|byte| !byte).collect();
    fs::write(place.source(), &changed).unwrap();
    let source = File::options().write(true).open(place.source()).unwrap();
    let times = FileTimes::new().set_modified(modified);
    source.set_times(times).unwrap();
    assert_eq!(
        upload(&client, &place).await,
        [
            "started over: an earlier run sent another version of the local file",
            "opened at 0"
        ]
    );
    assert!(fs::read(server.path("name")).unwrap() == changed);
    assert_eq!(upload(&client, &place).await, ["already there"]);
}

#[tokio::test]
async fn file_that_a_consumer_removes_is_uploaded_any_number_of_times() {
    let place = TransferDir::new();
    let server = TestServer::start();
    let client = server.client().retry(without_retries());
    for round in 0..9 {
        let events = upload(&client, &place).await;
        assert_eq!(events.last().unwrap(), "opened at 0", "{round}: {events:?}");
        assert!(fs::read(server.path("name")).unwrap() == place.content);
        fs::remove_file(server.path("name")).unwrap();
    }
}

#[tokio::test]
async fn caller_with_the_right_to_write_only_repeats_an_upload() {
    let place = TransferDir::new();
    let keys = KeyFile::new(&[rsa().jwk()]);
    let server = TestServer::start_with(require_tokens(keys.settings()));
    let token = valid_token().claim("scope", "\"files.write\"").sign(rsa());
    let endpoint = client::endpoint(format!("http://{}", server.address)).unwrap();
    let channel = endpoint.connect_lazy();
    let channel = AuthorizedChannel::new(&endpoint, channel, Credentials::token(token)).unwrap();
    let client = Client::new(channel).retry(without_retries());
    assert_eq!(upload(&client, &place).await, ["opened at 0"]);
    let names = || tree(&server.path(".muxs")).into_keys().collect::<Vec<_>>();
    let before = names();
    assert_eq!(upload(&client, &place).await, ["already there"]);
    assert_eq!(names(), before);

    fs::write(server.path("name"), "another").unwrap();
    assert_eq!(upload(&client, &place).await.len(), 2);
    assert!(fs::read(server.path("name")).unwrap() == place.content);
}
