//! What the environment and the URL's options lead to; no request is made.

use gabion_store_core::ErrorKind;

use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
}

fn try_connect(url: &str, variables: &[(&str, &str)]) -> Result<Bucket> {
    connect(&url.parse()?, &Timeouts::default(), &environment(variables))
}

#[test]
fn an_environment_does_not_show_values() {
    let shown = format!("{:?}", environment(&[("AWS_SECRET_ACCESS_KEY", "hush")]));
    assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hush"));
}

#[tokio::test]
async fn a_memory_bucket_is_one_in_the_process() {
    use object_store::ObjectStoreExt as _;
    let path = Path::from("a");
    let first = try_connect("memory://connect-test/p", &[]).unwrap();
    assert_eq!(first.prefix.as_ref(), "p");
    first.store.put(&path, "x".into()).await.unwrap();
    let second = try_connect("memory://connect-test", &[]).unwrap();
    assert_eq!(second.store.get(&path).await.unwrap().bytes().await.unwrap(), "x");
    let other = try_connect("memory://connect-test-2", &[]).unwrap();
    assert!(other.store.get(&path).await.is_err());
}

#[cfg(feature = "s3")]
#[test]
fn an_endpoint_of_the_environment_is_checked_like_one_of_the_url() {
    let secret = "hush";
    let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", secret)];
    let with = |endpoint| [keys[0], keys[1], ("AWS_ENDPOINT_URL", endpoint)];
    try_connect("s3://bucket/p", &with("http://127.0.0.1:9000")).unwrap();
    let e = try_connect("s3://bucket/p", &with("http://10.0.0.1:9000")).unwrap_err();
    assert!(e.report().contains("AWS_ENDPOINT_URL") && e.report().contains("allow_http"), "{}", e.report());
    try_connect("s3://bucket/p?allow_http=true", &with("http://10.0.0.1:9000")).unwrap();
    let bucket = try_connect("s3://bucket/p", &keys).unwrap();
    assert!(!format!("{bucket:?}").contains(secret), "{bucket:?}");
}

#[cfg(feature = "s3")]
#[test]
fn half_a_credential_is_refused_without_being_shown() {
    let e = try_connect("s3://bucket", &[("AWS_SECRET_ACCESS_KEY", "hush")]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Invalid);
    assert!(e.report().contains("AWS_") && !e.report().contains("hush"), "{}", e.report());
}

#[cfg(feature = "azure")]
#[test]
fn azure_needs_an_account() {
    let e = try_connect("az://container", &[]).unwrap_err();
    assert!(e.to_string().contains("AZURE_STORAGE_ACCOUNT_NAME"), "{e}");
    let key = ("AZURE_STORAGE_ACCOUNT_KEY", "aHVzaA==");
    for variables in [[("AZURE_STORAGE_ACCOUNT_NAME", "a"), key], [("AZURE_STORAGE_ACCOUNT", "a"), key]] {
        try_connect("az://container", &variables).unwrap();
    }
    try_connect("az://container?account=a", &[key]).unwrap();
}
