//! Secrets: 32 random bytes each, and the file that keeps some of them for one purpose.
//!
//! The file is text: a title with the version, a line `secret` with hexadecimal digits for each, the oldest first, and
//! a checksum over the lines before, so that a damaged secret is not taken for another one.

use std::fmt;
use std::fmt::Write as _;

use sustain_proto::{KeyId, ServiceName};

use crate::service_key::ServiceKey;
use crate::{Fault, limits};

const TITLE: &str = "sustain secrets, version 1";
/// Of what a service's secret is derived from, and its name.
const SERVICE_CONTEXT: &str = "sustain 2026 service secret v1";

/// 32 secret bytes. They never appear in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one, from the system's random source.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn generate() -> Result<Self, Fault> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| Fault::Random { reason: error.to_string() })?;
        Ok(Self(bytes))
    }

    /// The secret that these bytes are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret of a service, derived from this one. Who has it can't tell this one from it, nor another service's.
    #[must_use]
    pub fn of_service(&self, service: &ServiceName) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SERVICE_CONTEXT);
        hasher.update(&self.0);
        hasher.update(service.as_str().as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The key of a service whose secret this is.
    #[must_use]
    pub fn key(&self) -> ServiceKey {
        ServiceKey::derive(&self.0)
    }

    /// Tells it from others, and reveals nothing of it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.key().id()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// One or more secrets for one purpose: the newest seals, and the others only open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets {
    older: Vec<Secret>,
    newest: Secret,
}

/// A file would have more secrets than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {} secrets already, and no more are allowed", limits::SECRETS_MAX)]
pub struct TooManySecrets;

impl Secrets {
    /// This one alone.
    #[must_use]
    pub const fn one(secret: Secret) -> Self {
        Self { older: Vec::new(), newest: secret }
    }

    /// The one that seals.
    #[must_use]
    pub const fn newest(&self) -> &Secret {
        &self.newest
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.older.iter().chain(std::iter::once(&self.newest))
    }

    /// Has this one seal from now on, and the others only open.
    ///
    /// # Errors
    /// If there are too many; they are then as they were.
    pub fn add(&mut self, newest: Secret) -> Result<(), TooManySecrets> {
        if self.older.len() + 1 >= limits::SECRETS_MAX {
            return Err(TooManySecrets);
        }
        self.older.push(std::mem::replace(&mut self.newest, newest));
        Ok(())
    }

    /// Takes those away that only open, and that this says so of.
    pub fn remove_older(&mut self, mut goes: impl FnMut(&Secret) -> bool) {
        self.older.retain(|secret| !goes(secret));
    }

    /// A service's secrets, derived from these.
    #[must_use]
    pub fn of_service(&self, service: &ServiceName) -> Self {
        let older = self.older.iter().map(|secret| secret.of_service(service)).collect();
        Self { older, newest: self.newest.of_service(service) }
    }

    /// The text of their file. It is secret, too.
    #[must_use]
    pub fn format(&self) -> String {
        let mut body = format!("{TITLE}\n");
        for secret in self.iter() {
            // Writing to a text can't fail.
            let _ = writeln!(body, "secret {}", hex(&secret.0));
        }
        let check = check(&body);
        format!("{body}check {check}\n")
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.lines().next() != Some(TITLE) {
            return Err("it holds no secrets of a version that this build reads");
        }
        let end = text.rfind("check ").ok_or("it is cut short")?;
        let (body, checksum) = text.split_at(end);
        if checksum != format!("check {}\n", check(body)) {
            return Err("its checksum does not match");
        }
        let secret = |line: &str| line.strip_prefix("secret ").and_then(unhex).map(Secret);
        let found: Option<Vec<Secret>> = body.lines().skip(1).map(secret).collect();
        let mut older = found.ok_or("it holds something else than secrets")?;
        if older.len() > limits::SECRETS_MAX {
            return Err("it holds too many secrets");
        }
        let newest = older.pop().ok_or("it holds no secret")?;
        Ok(Self { older, newest })
    }
}

pub(crate) fn check(body: &str) -> String {
    hex(&blake3::hash(body.as_bytes()).as_bytes()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a text can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != N * 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (position, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[position * 2..position * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Secrets {
        let mut secrets = Secrets::one(Secret([1; 32]));
        secrets.add(Secret([2; 32])).unwrap();
        secrets.add(Secret([0xab; 32])).unwrap();
        secrets
    }

    #[test]
    fn files_are_read_back() {
        for secrets in [Secrets::one(Secret([7; 32])), three()] {
            assert_eq!(Secrets::parse(&secrets.format()), Ok(secrets));
        }
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let text = three().format();
        for position in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[position] ^= 1;
            let text = String::from_utf8(bytes).unwrap();
            assert!(Secrets::parse(&text).is_err(), "byte {position}");
        }
        for end in 0..text.len() {
            assert!(Secrets::parse(&text[..end]).is_err(), "cut at {end}");
        }
        assert!(Secrets::parse(&format!("{text} ")).is_err());
    }

    #[test]
    fn files_have_at_least_one_secret_and_not_too_many() {
        let with = |count: usize| {
            let body = format!("{TITLE}\n{}", format!("secret {}\n", "5a".repeat(32)).repeat(count));
            Secrets::parse(&format!("{body}check {}\n", check(&body)))
        };
        assert!(with(0).is_err());
        assert_eq!(with(limits::SECRETS_MAX).unwrap().iter().count(), limits::SECRETS_MAX);
        assert!(with(limits::SECRETS_MAX + 1).is_err());
        let mut full = with(limits::SECRETS_MAX).unwrap();
        assert_eq!(full.add(Secret([1; 32])), Err(TooManySecrets));
    }

    #[test]
    fn the_newest_stays_and_older_ones_go() {
        let mut secrets = three();
        secrets.remove_older(|secret| *secret != Secret([2; 32]));
        let all: Vec<_> = secrets.iter().cloned().collect();
        assert_eq!(all, [Secret([2; 32]), Secret([0xab; 32])]);
    }

    #[test]
    fn each_service_has_another_secret() {
        let secret = Secret([3; 32]);
        let [mail, web] = ["mail", "web"].map(|name| secret.of_service(&ServiceName::new(name).unwrap()));
        assert_ne!(mail, web);
        assert_ne!(mail, secret);
        assert_eq!(
            format!("{:?}", three()),
            "Secrets { older: [Secret(..), Secret(..)], newest: Secret(..) }"
        );
    }
}
