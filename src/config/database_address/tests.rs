use super::*;

fn read(text: &str) -> DatabaseAddress {
    DatabaseAddress::parse(&text.into()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> String {
    match DatabaseAddress::parse(&text.into()) {
        Ok(address) => panic!("{text} is read as {address:?}"),
        Err(error) => error.to_string(),
    }
}

fn hosts(text: &str) -> Vec<String> {
    read(text).hosts.iter().map(ToString::to_string).collect()
}

#[test]
fn hosts_stand_in_every_place_where_libpq_looks_for_them() {
    for (text, wanted) in [
        ("postgresql://a:1,b:2/x", vec!["a:1", "b:2"]),
        ("postgres://u:p@a,b:7/x", vec!["a:5432", "b:7"]),
        ("postgresql://[::1]:6000/x", vec!["[::1]:6000"]),
        ("postgresql:///x?host=a,b&port=6000", vec!["a:6000", "b:6000"]),
        ("postgresql:///x?host=a,b&port=6000,6001", vec!["a:6000", "b:6001"]),
        ("postgresql:///x?host=/run/postgresql", vec!["/run/postgresql/.s.PGSQL.5432"]),
        ("postgresql://%2Frun%2Fpostgresql/x", vec!["/run/postgresql/.s.PGSQL.5432"]),
        ("postgresql://%2Frun:6000,b/x", vec!["/run/.s.PGSQL.6000", "b:5432"]),
        ("postgresql://@/x?host=@name", vec!["@name/.s.PGSQL.5432"]),
        ("postgresql:///x", vec!["the usual socket, port 5432"]),
        ("host=a,/run port=1,2 dbname=x", vec!["a:1", "/run/.s.PGSQL.2"]),
        ("postgresql://db.example/x?hostaddr=10.0.0.1", vec!["10.0.0.1:5432"]),
    ] {
        assert_eq!(hosts(text), wanted, "{text}");
    }
}

#[test]
fn names_and_passwords_are_decoded() {
    use secrecy::ExposeSecret;
    for text in [
        "postgresql://o%40la:p%40s%2Fs%3A%25+%3F@h/d%20b",
        "postgresql://o%40la:p@s%2Fs%3A%25+%3F@h/d%20b",
        r"user=o@la password='p@s/s:%+?' host=h dbname='d b'",
        r"user = o@la password=p@s/s:%+? host=h dbname=d\ b",
        "\n postgresql:///d%20b?user=o%40la&host=h&password=p%40s%2Fs%3A%25+%3F\n",
    ] {
        let address = read(text);
        assert_eq!(address.user.as_deref(), Some("o@la"), "{text}");
        assert_eq!(address.password.as_ref().map(|password| password.expose_secret()), Some("p@s/s:%+?"), "{text}");
        assert_eq!(address.database.as_deref(), Some("d b"), "{text}");
        assert!(!format!("{address:?}").contains("p@s/s"), "{text}");
    }
}

#[test]
fn parameters_mean_what_they_mean_in_libpq() {
    let address = read("postgresql://h/x?connect_timeout=1&application_name=shop&target_session_attrs=primary");
    assert_eq!((address.connect_timeout.as_secs(), address.application_name.as_str()), (2, "shop"));
    assert_eq!(read("postgresql://h,i/x?connect_timeout=0").connect_timeout, TIMEOUT_AMONG_OTHERS);
    assert_eq!(read("postgresql://h/x").application_name, "nxt-mirror");
    assert_eq!(read("postgresql://h/x").tls.mode, TlsMode::Prefer);
    assert_eq!(read("postgresql://h/x?sslmode=require").tls.mode, TlsMode::Require);
    assert_eq!(read("postgresql://h/x?sslmode=require&sslrootcert=/ca").tls.mode, TlsMode::VerifyCa);
    assert_eq!(read("postgresql://h/x?sslrootcert=system").tls.mode, TlsMode::VerifyFull);
    assert_eq!(
        read("postgresql://h/x?channel_binding=prefer&keepalives=1").without_effect,
        ["channel_binding", "keepalives"]
    );
    assert_eq!(read("postgresql://h/x?options=-c%20geqo%3Doff").options.as_deref(), Some("-c geqo=off"));
}

#[test]
fn what_is_wrong_is_named_and_no_value_repeated() {
    for (text, problem) in [
        ("nonsense", "not a URL of the form"),
        ("https://h/hush", "not a URL of the form"),
        ("postgresql://u:hush@h:0/x", "a port is a number"),
        ("postgresql://u:hush@::1/x", "a port is a number"),
        ("postgresql://a,b,c/x?port=1,2", "as many ports as hosts"),
        ("postgresql://h/x?sslmode=hush", "sslmode is one of"),
        ("postgresql://h/x?sslcert=hush", "sslcert and sslkey"),
        ("postgresql://h/x?sslmode=require&sslrootcert=system", "needs sslmode=verify-full"),
        ("postgresql://h/x?target_session_attrs=standby", "target_session_attrs is one of"),
        ("postgresql://h/x?connect_timeout=hush", "connect_timeout is a number"),
        ("postgresql://h/x?hostaddr=hush", "hostaddr holds addresses"),
        ("postgresql://h/x?hostaddr=10.0.0.1&sslmode=verify-full", "hostaddr does not go with"),
        ("postgresql://h/x?client_encoding=latin1", "client_encoding is utf8"),
        ("postgresql://h/x?sslmod=require", "there is no parameter sslmod"),
        ("postgresql://h/x?service=shop", "service does not go with this daemon"),
        ("postgresql://u:a?hush=b@h/x", "a parameter that is not libpq's"),
        ("postgresql://u:a?hush@h/x", "a parameter that is not libpq's"),
        ("host=h password='hush", "not a URL of the form"),
        ("host=h hush=1", "a parameter that is not libpq's"),
    ] {
        let said = refusal(text);
        assert!(said.starts_with("DATABASE_URL is wrong: ") && said.contains(problem), "{text}: {said}");
        assert!(!said.contains("hush"), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
}
