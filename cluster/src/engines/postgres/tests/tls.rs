//! TLS with a certificate authority of our own.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::{append, batch, open, shard};
use crate::conformance::server::Server;
use crate::{EngineOptions, connect};
use trawl_proto::Epoch;

/// A certificate authority, and a certificate of it for the names with its key.
fn certificates(names: &[&str]) -> (String, String, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap().pem();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap().pem();
    (root, certificate, key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_verified_as_asked() {
    let Some(mut server) = Server::start(&[("fsync", "off")]) else { return };
    let options = EngineOptions::default();
    let plain = server.url();
    let error = connect(&format!("{plain}?sslmode=require"), &options).await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
    server.stop();
    let (root, certificate, key) = certificates(&["127.0.0.1"]);
    let (stranger, ..) = certificates(&["127.0.0.1"]);
    for (name, contents) in
        [("root.crt", &root), ("stranger.crt", &stranger), ("server.crt", &certificate), ("server.key", &key)]
    {
        server.write_file(name, contents);
    }
    let hba = std::fs::read_to_string(server.data().join("pg_hba.conf")).unwrap().replace("host ", "hostssl ");
    server.write_file("pg_hba.conf", &hba);
    server.set("ssl", "on");
    server.restart();

    let file = |name: &str| server.data().join(name).display().to_string();
    let verified = format!("{plain}?sslmode=verify-full&sslrootcert={}", file("root.crt"));
    let engine = open(&verified).await;
    engine.log.create(Epoch(1), &[shard(0)]).await.unwrap();
    append(&*engine.log, batch(&shard(0), "x", None)).await.unwrap();
    let encrypted =
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'trawl'";
    assert_ne!(server.query(encrypted).trim(), "0");
    drop(open(&format!("{plain}?sslmode=require")).await);
    drop(open(&format!("{plain}?sslmode=verify-ca&sslrootcert={}", file("root.crt"))).await);
    for wrong in [
        format!("{plain}?sslmode=verify-full&sslrootcert={}", file("stranger.crt")),
        format!("{plain}?sslmode=require&sslrootcert={}", file("stranger.crt")),
        format!("{}?sslmode=verify-full&sslrootcert={}", plain.replace("127.0.0.1", "localhost"), file("root.crt")),
    ] {
        let error = connect(&wrong, &options).await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{wrong}: {error}");
    }
    let error = connect(&format!("{plain}?sslmode=disable"), &options).await.unwrap_err().to_string();
    assert!(error.contains("pg_hba"), "{error}");
}
