//! What is read, what is shown, what is refused, and that nothing refused is repeated.

use proptest::prelude::*;

use super::*;

fn url(text: &str) -> ObjectUrl {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn refused(text: &str) -> String {
    let e = text.parse::<ObjectUrl>().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Invalid, "{text}");
    e.to_string()
}

#[cfg(feature = "s3")]
#[test]
fn an_s3_url_has_bucket_prefix_and_options() {
    let url =
        url("s3://images/team/prod?region=eu-central-1&endpoint=http://127.0.0.1:9000&path_style=false");
    assert_eq!((url.scheme(), url.authority(), url.prefix().as_ref()), (Scheme::S3, "images", "team/prod"));
    assert_eq!(url.options().endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    assert_eq!(url.options().region.as_deref(), Some("eu-central-1"));
    assert_eq!(url.options().path_style, Some(false));
    assert!(!url.read_only());
    assert_eq!(url.place(), "s3://images/team/prod");
}

#[test]
fn display_is_one_normal_form() {
    for (text, normal) in [
        ("memory://tests", "memory://tests"),
        ("memory://tests/", "memory://tests"),
        ("MEMORY://Tests/a/", "memory://Tests/a"),
        ("memory://t/a%20b%2fc?single_writer=true", "memory://t/a%20b/c?single_writer=true"),
        ("memory://t?single_writer=false", "memory://t"),
        ("file:///srv/store", "file:///srv/store"),
        ("file://localhost/srv/store/", "file:///srv/store"),
        #[cfg(feature = "http")]
        ("https://CDN.example.org:8443/images", "https://cdn.example.org:8443/images"),
        #[cfg(feature = "http")]
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        #[cfg(feature = "http")]
        ("http://[::1]:8000/x", "http://[::1]:8000/x"),
        #[cfg(feature = "http")]
        ("http://far.example?allow_http=true", "http://far.example?allow_http=true"),
        #[cfg(feature = "s3")]
        (
            "s3://b?single_writer=true&anonymous=true&endpoint=https%3A%2F%2Fs3.example.org%2F",
            "s3://b?endpoint=https://s3.example.org&anonymous=true&single_writer=true",
        ),
        #[cfg(feature = "azure")]
        ("az://disks/p?account=acct", "az://disks/p?account=acct"),
        #[cfg(feature = "gcs")]
        ("gs://disks?endpoint=http://localhost:4443", "gs://disks?endpoint=http://localhost:4443"),
    ] {
        assert_eq!(url(text).to_string(), normal);
        assert_eq!(format!("{:?}", url(text)), format!("\"{normal}\""));
        assert_eq!(url(normal), url(text));
    }
}

#[test]
fn what_is_no_url_is_refused() {
    for text in [
        "",
        "bucket",
        "s3:bucket",
        "ftp://host/x",
        "memory://",
        "memory:///a",
        "memory://a b",
        "memory://a//b",
        "memory://a/../b",
        "memory://a/%2e%2e/b",
        "memory://a/.",
        "memory://a/b\nc",
        "memory://a/%00",
        "memory://a/%c2%85",
        "memory://a/%ff",
        "memory://a/b#c",
        "memory://a?single_writer=yes",
        "memory://a?single_writer=true&single_writer=true",
        "memory://a?single_writer",
        "file://host/path",
        "file:///",
        "file://path",
    ] {
        refused(text);
    }
    refused(&format!("memory://a/{}", "x".repeat(MAX_URL)));
}

#[cfg(feature = "s3")]
#[test]
fn unknown_options_are_answered_with_those_there_are() {
    let message = refused("s3://bucket?zone=5");
    assert!(message.contains("'zone'") && message.contains("region, path_style"), "{message}");
    refused("s3://bucket?account=a");
    refused("s3://bucket?region=eu%20central");
    refused("s3://bucket?region=");
}

#[cfg(feature = "s3")]
#[test]
fn secrets_are_refused_and_not_repeated() {
    let secret = "wJalrXUtnFEMI";
    for text in [
        format!("s3://AKIA:{secret}@bucket/prefix"),
        format!("s3://{secret}@bucket"),
        format!("s3://bucket?secret_access_key={secret}"),
        format!("s3://bucket?aws_secret_access_key={secret}"),
        format!("s3://bucket?X-Amz-Signature={secret}"),
        format!("s3://bucket?{secret}{secret}{secret}{secret}%20=1"),
        format!("s3://bucket?sig={secret}"),
        format!("s3://bucket?endpoint=http://user:{secret}@127.0.0.1:9000"),
        format!("s3://bucket?endpoint=https://host/?sig={secret}"),
        format!("s3://bucket?region={secret}%2B"),
        format!("s3://bucket?path_style={secret}"),
        format!("{secret}+/{secret}://bucket"),
    ] {
        let message = refused(&text);
        assert!(!message.contains(secret), "{message}");
    }
    assert!(refused("s3://bucket?access_key=1").contains("AWS_SECRET_ACCESS_KEY"));
    assert!(refused("s3://a:b@bucket").contains("AWS_SECRET_ACCESS_KEY"));
}

#[cfg(all(feature = "s3", feature = "http"))]
#[test]
fn plain_http_is_for_this_machine() {
    for far in ["10.0.0.1:9000", "example.org", "127.0.0.1.example.org", "[2001:db8::1]"] {
        assert!(refused(&format!("s3://b?endpoint=http://{far}")).contains("allow_http"));
        assert!(refused(&format!("http://{far}/x")).contains("allow_http"));
        url(&format!("s3://b?endpoint=http://{far}&allow_http=true"));
        url(&format!("s3://b?endpoint=https://{far}"));
    }
    for near in ["127.0.0.1:9000", "127.8.0.1", "localhost", "[::1]:9000"] {
        url(&format!("s3://b?endpoint=http://{near}"));
        url(&format!("http://{near}/x"));
    }
    refused("s3://b?endpoint=ftp://127.0.0.1");
    refused("s3://b?endpoint=127.0.0.1:9000");
}

#[test]
fn a_scheme_of_another_build_names_its_feature() {
    for (text, feature, built) in [
        ("s3://b", "s3", cfg!(feature = "s3")),
        ("gs://b", "gcs", cfg!(feature = "gcs")),
        ("az://b", "azure", cfg!(feature = "azure")),
        ("https://b", "http", cfg!(feature = "http")),
    ] {
        assert!(ObjectUrl::claims(text));
        match text.parse::<ObjectUrl>() {
            Ok(_) => assert!(built),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Unsupported);
                assert!(!built && e.to_string().contains(&format!("'{feature}'")), "{e}");
            }
        }
    }
    assert!(!ObjectUrl::claims("prod:vm1") && !ObjectUrl::claims("/srv/store"));
}

proptest! {
    #[test]
    fn what_is_shown_is_read_again(name in "[a-zA-Z0-9._-]{1,20}", parts in prop::collection::vec("[^/\\p{C}]{1,8}", 0..4)) {
        let path: String = parts.iter().map(|part| format!("/{}", escape(part))).collect();
        if let Ok(url) = format!("memory://{name}{path}").parse::<ObjectUrl>() {
            prop_assert_eq!(url.to_string().parse::<ObjectUrl>().unwrap(), url.clone());
            prop_assert_eq!(url.prefix().as_ref(), parts.join("/"));
        }
    }

    #[test]
    fn foreign_text_is_answered(text in ".{0,60}") {
        let _ = text.parse::<ObjectUrl>();
        let _ = format!("memory://{text}").parse::<ObjectUrl>();
        let _ = format!("memory://a?{text}").parse::<ObjectUrl>();
    }
}
