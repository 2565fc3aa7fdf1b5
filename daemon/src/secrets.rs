//! Secrets that Cobalt must be able to read again, such as those that sign what callbacks are
//! sent: sealed with a key that lies in a file and never in etcd. And signing itself.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// How many bytes a key has.
const KEY: usize = 32;

/// The key that seals secrets. All daemons of a cluster need the same.
pub struct SecretKey(LessSafeKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

impl SecretKey {
    /// The key that `text` spells: 64 hex digits.
    ///
    /// # Errors
    /// A sentence, when it spells none.
    pub fn parse(text: &str) -> Result<SecretKey, String> {
        let bytes = unhex(text.trim()).filter(|bytes| bytes.len() == KEY);
        let key = bytes.and_then(|bytes| UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok());
        let bad = || "a secret key is 64 hex digits; make one with: openssl rand -hex 32";
        key.map(|key| SecretKey(LessSafeKey::new(key))).ok_or_else(|| bad().to_owned())
    }

    /// Seals a secret; it can be opened only as the one that `about` names. In hex.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn seal(&self, about: &str, secret: &str) -> Result<String, String> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = secret.as_bytes().to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        let done = self.0.seal_in_place_append_tag(unique, Aad::from(about), &mut sealed);
        done.map_err(|_| "the secret cannot be sealed".to_owned())?;
        Ok(hex(&[nonce.as_slice(), &sealed].concat()))
    }

    /// Opens what was sealed as the one that `about` names.
    ///
    /// # Errors
    /// A sentence, when it was sealed with another key, or changed since.
    pub fn open(&self, about: &str, sealed: &str) -> Result<String, String> {
        let bad = || {
            "its secret was sealed with another key: give all daemons the same file with \
                      --secret-key-file, or make the callback anew"
        };
        let opened = || {
            let bytes = unhex(sealed)?;
            let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut sealed = sealed.to_vec();
            let opened = self.0.open_in_place(nonce, Aad::from(about), &mut sealed).ok()?;
            String::from_utf8(opened.to_vec()).ok()
        };
        opened().ok_or_else(|| bad().to_owned())
    }
}

/// Makes a file with a new key, unless there is one. Only its owner can read it.
///
/// # Errors
/// A sentence, when it cannot be made.
pub fn ensure_key_file(path: &Path) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("cannot make {}: {error}", path.display());
    if path.try_exists().map_err(cannot)? {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(cannot)?;
    writeln!(file, "{}", hex(&random::<KEY>()?)).map_err(cannot)?;
    file.as_file().sync_all().map_err(cannot)?;
    file.persist_noclobber(path).map_err(|error| cannot(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(cannot)
}

/// A secret that nobody can guess: 64 hex digits.
///
/// # Errors
/// When the system has no randomness to give.
pub fn fresh() -> Result<String, String> {
    Ok(hex(&random::<32>()?))
}

/// HMAC-SHA256 over the time and what is sent, in hex.
pub fn sign(secret: &str, timestamp: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    hex(context.sign().as_ref())
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| "the system gives no random numbers".to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_the_same_key_and_for_the_same_thing_only() {
        let key = SecretKey::parse(&fresh().expect("random")).expect("a key");
        let other = SecretKey::parse(&fresh().expect("random")).expect("a key");
        let sealed = key.seal("a", "the secret").expect("sealed");
        assert!(!sealed.contains(&hex(b"the secret")));
        assert_eq!(key.open("a", &sealed).as_deref(), Ok("the secret"));
        assert!(key.open("b", &sealed).is_err());
        assert!(other.open("a", &sealed).is_err());
        for changed in ["", "00", "xyz", &sealed[2..], &format!("00{}", &sealed[2..])] {
            assert!(key.open("a", changed).is_err(), "{changed}");
        }
    }

    #[test]
    fn a_key_file_is_made_once_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret.key");
        ensure_key_file(&path).expect("made");
        let text = std::fs::read_to_string(&path).expect("text");
        ensure_key_file(&path).expect("there");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), text);
        assert!(SecretKey::parse(&text).is_ok());
        assert_eq!(path.metadata().expect("it").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "abc", &"g".repeat(64), &"0".repeat(62)] {
            assert!(SecretKey::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_signature_is_that_of_hmac_sha256() {
        // printf '1.{}' | openssl dgst -sha256 -hmac key
        let expected = "1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224";
        assert_eq!(sign("key", "1", b"{}"), expected);
    }
}
