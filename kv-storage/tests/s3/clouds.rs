//! `gs://` and `az://` as far as they can be tried without their servers: names, variables, and a server that nobody runs. The environment is
//! a process's, so each case is one.

use std::process::Command;

use kv_storage::ErrorKind;

const URL: &str = "KV_CLOUD_URL";
const EXPECTED: &str = "KV_CLOUD_EXPECTED";

//= SEMANTICS.md#s3-clouds
#[tokio::test(flavor = "multi_thread")]
async fn variables_name_the_server_and_a_server_that_does_not_answer_is_unavailable() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = format!("http://{closed}");
    // Without a token: one would be asked of the machine's own service.
    let key = format!(
        r#"{{"gcs_base_url":"{server}","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}}"#
    );
    let google = [("GOOGLE_SERVICE_ACCOUNT_KEY", key.as_str())];
    let azure = [
        ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ENDPOINT", &server),
    ];
    let unavailable = "gs://bucket/a: cannot open bucket";
    for (url, variables, expected) in [
        ("gs://bucket/a?threads=1", &google[..], unavailable),
        ("az://container/a?threads=1", &azure, "az://container/a: cannot open container"),
        ("az://container/a", &azure[..1], "the environment's variables do not make a client"),
    ] {
        let mut process = Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", "clouds::opens_what_it_is_told", "--ignored", "--nocapture"]);
        process.env_remove("GOOGLE_APPLICATION_CREDENTIALS");
        process.env(URL, url).env(EXPECTED, expected).envs(variables.iter().copied());
        let status = tokio::task::spawn_blocking(move || process.status().unwrap()).await.unwrap();
        assert!(status.success(), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of `variables_name_the_server_and_a_server_that_does_not_answer_is_unavailable`"]
async fn opens_what_it_is_told() {
    let (url, expected) = (std::env::var(URL).unwrap(), std::env::var(EXPECTED).unwrap());
    let error = kv_storage::open(&url).await.unwrap_err();
    let unavailable = expected.contains("cannot open");
    let kind = if unavailable { ErrorKind::Unavailable } else { ErrorKind::Invalid };
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(&expected), "{error}");
}
