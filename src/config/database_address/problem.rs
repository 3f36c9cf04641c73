//! What is wrong with an address, without its value, which may hold a password.

/// What is wrong with an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Problem {
    #[error("not a URL of the form postgresql://user:password@host:port/database, nor a list of key=value")]
    Form,
    #[error("it is not UTF-8 when its percent signs are decoded")]
    Encoding,
    #[error(
        "it has a parameter that is not libpq's (in a password, the characters : / ? # [ ] @ % are percent-encoded)"
    )]
    UnknownParameter,
    #[error("there is no parameter {0}")]
    NoSuchParameter(String),
    #[error("a port is a number from 1 to 65535")]
    Port,
    #[error("as many ports as hosts are needed, or one")]
    Ports,
    #[error("hostaddr holds addresses, as many as there are hosts")]
    HostAddresses,
    #[error("hostaddr does not go with sslmode=verify-full, which compares the certificate with host")]
    HostAddressUnverified,
    #[error("sslmode is one of disable, allow, prefer, require, verify-ca and verify-full")]
    TlsMode,
    #[error("sslcert and sslkey are given together")]
    Identity,
    #[error("sslrootcert=system needs sslmode=verify-full")]
    SystemRoots,
    #[error("connect_timeout is a number of seconds")]
    Timeout,
    #[error("target_session_attrs is one of any, read-write and primary, since nxt-mirror writes")]
    Attributes,
    #[error("client_encoding is utf8 or auto")]
    ClientEncoding,
    #[error("{0} does not go with this daemon: leave it out")]
    Unsupported(String),
}
