//! What is told when a bucket can't be used, and that no secret is in it.

use gabion_testcloud::{Fault, Operation, Rule};

use super::{MIB, local, noise};
use crate::support::cloud::{Net, SECRET};
use crate::support::{Home, tools, without_checksum};

/// Asserts that a message holds every one of these words, and no secret.
fn says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word:?} is missing in {line}");
    }
    assert!(!line.contains(SECRET) && !line.to_lowercase().contains("signature"), "{line}");
}

#[test]
fn urls_and_credentials() {
    let net = Net::new();
    let home = net.stranger();
    for (code, url, words) in [
        (2, "ftp://bucket", &["ftp", "s3://"][..]),
        (2, "s3://", &["bucket"]),
        (2, "s3://user:hunter2@bucket", &["AWS_ACCESS_KEY_ID"]),
        (2, "s3://bucket?aws_secret_access_key=hunter2", &["AWS_SECRET_ACCESS_KEY"]),
        (2, "s3://bucket?colour=blue", &["colour", "endpoint"]),
        (2, "s3://bucket?endpoint=http://example.com", &["http"]),
        (2, "https://user:hunter2@example.com/x", &["password"]),
    ] {
        for verb in [["ls", "--store", url], ["init", url, "--json"]] {
            let said = home.refuses(code, verb);
            says(&said, words);
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
    // Nobody is asked for them: there is no metadata server on loopback.
    let bare = Home::new().with("AWS_EC2_METADATA_DISABLED", "true").with("GABION_TIMEOUT", "2s");
    says(&bare.refuses(10, ["ls", "--store", &net.url("prod")]), &["AWS_ACCESS_KEY_ID"]);
    // Where settings are shown, a URL that is no good is not.
    let shown = net.stranger().with("GABION_STORE", "s3://key:hunter2@bucket").run(["config"]);
    assert!(!String::from_utf8_lossy(&shown).contains("hunter2"));
}

#[test]
fn what_is_not_there() {
    let net = Net::new();
    let home = net.host();
    home.file("disk.raw", &noise(1, MIB));
    says(&home.refuses(3, ["ls"]), &["no store", "init", "s3://images/prod"]);
    let elsewhere = net.url_in("elsewhere", "prod");
    says(
        &tools::fails(&mut home.gabion(["ls", "--store", &elsewhere])),
        &["no such bucket as 'elsewhere'", "make it"],
    );
    home.run(["import", "disk.raw", "vm1", "--store", &local(&home)]);
    says(&home.refuses(3, ["push", "vm1"]), &["--init"]);
    says(&home.refuses(3, ["pull", "vm1"]), &["no store"]);
    // What is told works as it stands.
    let other = net.url("other");
    let said = home.refuses(3, ["ls", "--store", &other]);
    let (_, told) = said.split_once("gabion init '").expect("a command");
    let (told, _) = told.split_once('\'').expect("a quoted URL");
    assert_eq!(told, other);
    home.run(["push", "vm1", "--init"]);
    says(&home.refuses(4, ["init", &net.url("prod")]), &["s3://images/prod"]);
    says(&home.refuses(3, ["pull", "vn1"]), &["'vn1'", "nearest: vm1"]);
    says(&home.refuses(3, ["show", "vm1~3"]), &["history has 1"]);

    let stranger = net.stranger();
    stranger.file("disk.raw", &noise(1, MIB));
    stranger.run(["import", "disk.raw", "vm1"]);
    says(&stranger.refuses(2, ["push", "vm1"]), &["--store", "GABION_STORE", "[stores]"]);
    says(&stranger.refuses(2, ["pull", "vm1"]), &["--store", "GABION_STORE", "[stores]"]);
    says(&stranger.refuses(2, ["push", "vm1", "--store", &local(&stranger)]), &["itself", "--store"]);
    says(&stranger.refuses(2, ["copy", "vm1", "vm2"]), &["tag"]);
}

#[test]
fn newer_stores_are_refused() {
    let net = Net::new();
    let home = net.host();
    home.run(["init", &net.url("prod")]);
    let descriptor = net.cloud.object("images", "prod/gabion.json").expect("a descriptor");
    let newer = String::from_utf8_lossy(&descriptor).replacen("\"version\": 1", "\"version\": 2", 1);
    net.cloud.put_object("images", "prod/gabion.json", without_checksum(&newer).into_bytes());
    says(&home.refuses(12, ["ls"]), &["s3://images/prod", "newer gabion"]);
}

#[test]
fn access_denied_names_what_was_asked() {
    let net = Net::new();
    let home = net.host();
    home.file("disk.raw", &noise(1, MIB));
    home.run(["init", &net.url("prod")]);
    for (operation, key) in [(Operation::Put, "packs/"), (Operation::Replace, "catalog")] {
        net.cloud.add_fault(Rule::new(Fault::denied()).on(operation).at(key));
        let said = home.refuses(10, ["import", "disk.raw", "vm1"]);
        says(&said, &[key, "s3://images/prod"]);
        net.cloud.clear_faults();
    }
    assert_eq!(home.json(["ls"])["images"].as_array().map(Vec::len), Some(0));
    net.cloud.add_fault(Rule::new(Fault::denied()).on(Operation::Get).at("gabion.json"));
    says(&home.refuses(10, ["ls"]), &["gabion.json"]);
    net.cloud.clear_faults();
    net.cloud.set_access_key(Some("AKIAI44QH8DHBEXAMPLE"));
    says(&home.refuses(10, ["ls"]), &["gabion.json"]);
}

#[test]
fn a_network_that_is_gone_is_told_within_the_timeout() {
    let net = Net::new();
    let home = net.host();
    home.file("disk.raw", &noise(1, MIB));
    home.run(["init", &net.url("prod")]);
    home.run(["import", "disk.raw", "vm1"]);
    net.cloud.unplug();
    says(&home.refuses(9, ["ls"]), &["s3://images/prod"]);
    says(&home.refuses(9, ["import", "disk.raw", "vm2"]), &["s3://images/prod"]);
    net.cloud.plug();
    assert_eq!(home.json(["ls"])["images"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_clock_that_is_wrong_is_told_in_a_line() {
    let net = Net::new();
    let home = net.host();
    home.run(["init", &net.url("prod")]);
    net.cloud.add_fault(Rule::new(Fault::skewed()));
    let said = home.refuses(10, ["ls"]);
    assert!(said.contains("clock is wrong") && said.contains("s3://images/prod"), "{said}");
    assert!(!said.contains(SECRET) && !said.contains("AWS4-HMAC"), "{said}");
}
