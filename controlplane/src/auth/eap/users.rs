//! The user file.
//!
//! One user a line: the name, a colon, and the password or its NT hash. Space around either is left out. Empty
//! lines and lines that start with `#` are skipped.
//!
//! ```text
//! # name: password
//! carol: Ar3etTnp
//! EXAMPLE\dave: nt:8846f7eaee8fb117ad06bdd830b7586c
//! ```
//!
//! `nt:` and 32 hexadecimal digits is the NT hash that directories and RADIUS servers export. It lets anybody log
//! in who has it, like the password. Keep the file readable by the gateway alone.

use std::collections::HashMap;
use std::fmt;

use data_encoding::HEXLOWER_PERMISSIVE;

use super::mschapv2::nt_hash;
use crate::crypto::Secret;

/// The users that may log in with a password. Passwords are kept as NT hashes only, and wiped.
#[derive(Default)]
pub struct Users {
    hashes: HashMap<String, Secret>,
}

/// What is wrong with a user file. It never quotes a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsersError {
    /// A line without a colon.
    #[error("line {line}: a user is written as \"name: password\"")]
    Colon {
        /// From 1.
        line: usize,
    },
    /// A line without a name, or without a password.
    #[error("line {line}: the {what} is empty")]
    Empty {
        /// From 1.
        line: usize,
        /// Name or password.
        what: &'static str,
    },
    /// A name that is there already.
    #[error("line {line}: the user {name:?} is there twice")]
    Twice {
        /// From 1.
        line: usize,
        /// The name.
        name: String,
    },
    /// Not 32 hexadecimal digits after `nt:`.
    #[error("line {line}: after nt: come 32 hexadecimal digits")]
    Hash {
        /// From 1.
        line: usize,
    },
}

impl Users {
    /// Reads a user file.
    pub fn parse(text: &str) -> Result<Self, UsersError> {
        let mut users = Self::default();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let (name, password) = content.split_once(':').ok_or(UsersError::Colon { line })?;
            let (name, password) = (name.trim(), password.trim());
            for (part, what) in [(name, "name"), (password, "password")] {
                if part.is_empty() {
                    return Err(UsersError::Empty { line, what });
                }
            }
            let hash = match password.strip_prefix("nt:") {
                Some(digits) => match HEXLOWER_PERMISSIVE.decode(digits.trim().as_bytes()) {
                    Ok(hash) if hash.len() == 16 => Secret::copy_of(&hash),
                    _ => return Err(UsersError::Hash { line }),
                },
                None => nt_hash(password),
            };
            if users.hashes.insert(name.to_owned(), hash).is_some() {
                return Err(UsersError::Twice { line, name: name.to_owned() });
            }
        }
        Ok(users)
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is no user.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    pub(super) fn nt_hash(&self, user: &str) -> Option<&Secret> {
        self.hashes.get(user)
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.hashes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_passwords_and_hashes() {
        let users =
            Users::parse("# users\n\n carol : Ar3et:Tnp \r\nEX\\dave: nt:8846F7EAEE8FB117AD06BDD830B7586C\n")
                .unwrap();
        assert_eq!(users.len(), 2);
        assert_eq!(users.nt_hash("carol"), Some(&nt_hash("Ar3et:Tnp")));
        // The NT hash of "password".
        assert_eq!(users.nt_hash("EX\\dave"), Some(&nt_hash("password")));
        assert_eq!(users.nt_hash("Carol"), None);
    }

    #[test]
    fn errors_name_the_line_and_no_password() {
        let error = |text| Users::parse(text).map(|_| ()).unwrap_err();
        assert_eq!(error("a: b\ncarol"), UsersError::Colon { line: 2 });
        assert_eq!(error("carol:"), UsersError::Empty { line: 1, what: "password" });
        assert_eq!(error(": x"), UsersError::Empty { line: 1, what: "name" });
        assert_eq!(error("carol: nt:12"), UsersError::Hash { line: 1 });
        assert_eq!(error("a: x\na: y"), UsersError::Twice { line: 2, name: "a".into() });
        assert!(!error("carol: nt:secret").to_string().contains("secret"));
    }
}
