//! Tokens in a file, one a line: `token,user,uid,"group,group"` (upstream:
//! `apiserver/pkg/authentication/token/tokenfile`).

use std::collections::HashMap;
use std::path::Path;

use crate::user::UserInfo;

/// What is written of each line, at least: token, name and UID.
const MIN_COLUMNS: usize = 3;

/// Tokens with their users, as they were at the start.
#[derive(Default)]
pub(super) struct TokenFile(HashMap<String, UserInfo>);

impl TokenFile {
    /// # Errors
    /// The file cannot be read, or has too few columns.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path);
        Self::read(&text.map_err(|error| format!("open {}: {error}", path.display()))?, path)
    }

    fn read(text: &str, path: &Path) -> Result<Self, String> {
        let (mut tokens, path) = (HashMap::new(), path.display());
        for (index, record) in records(text)?.into_iter().enumerate() {
            let number = index + 1;
            let [token, name, uid, rest @ ..] = record.as_slice() else {
                let found = record.len();
                return Err(format!(
                    "token file '{path}' must have at least {MIN_COLUMNS} columns (token, user name, user uid), found {found}"
                ));
            };
            if token.is_empty() {
                tracing::warn!("empty token has been found in token file '{path}', record number '{number}'");
                continue;
            }
            let groups = rest.first().map(|groups| groups.split(',').map(str::to_owned).collect());
            let user = UserInfo {
                name: name.clone(),
                uid: uid.clone(),
                groups: groups.unwrap_or_default(),
                ..UserInfo::default()
            };
            if tokens.insert(token.clone(), user).is_some() {
                tracing::warn!(
                    "duplicate token has been found in token file '{path}', record number '{number}'"
                );
            }
        }
        Ok(Self(tokens))
    }

    pub fn user(&self, token: &str) -> Option<UserInfo> {
        self.0.get(token).cloned()
    }
}

/// Fields by commas, those with commas or ends of lines in quotation marks (RFC 4180, as Go reads it).
fn records(text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut records = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(next) = rest.strip_prefix('\n').or_else(|| rest.strip_prefix("\r\n")) {
            rest = next;
            continue;
        }
        let mut record = Vec::new();
        loop {
            let (field, after) = field(rest).map_err(|why| format!("record {}: {why}", records.len() + 1))?;
            record.push(field);
            rest = after;
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        records.push(record);
        rest = rest.strip_prefix('\r').unwrap_or(rest);
        rest = rest.strip_prefix('\n').unwrap_or(rest);
    }
    Ok(records)
}

/// The first field, and what follows it.
fn field(text: &str) -> Result<(String, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '\n']).unwrap_or(text.len());
        let plain = &text[..end];
        if plain.contains('"') {
            return Err("bare \" in non-quoted field");
        }
        let plain = if text[end..].starts_with(',') { plain } else { plain.trim_end_matches('\r') };
        return Ok((plain.to_owned(), &text[end..]));
    };
    let mut found = String::new();
    loop {
        let (part, after) = rest.split_once('"').ok_or("extraneous or missing \" in quoted-field")?;
        found.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                found.push('"');
                rest = more;
            }
            None if after.is_empty() || after.starts_with([',', '\n']) || after.starts_with("\r\n") => {
                return Ok((found, after));
            }
            None => return Err("extraneous or missing \" in quoted-field"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TokenFile, String> {
        TokenFile::read(text, Path::new("tokens.csv"))
    }

    #[test]
    fn a_line_is_a_token() {
        let file = read("t1,ann,7,\"a,b\"\r\n\nt2,joe,8\n,nobody,9\nt3,\"say \"\"x\"\"\",1,c,more").unwrap();
        let ann = file.user("t1").unwrap();
        assert_eq!((ann.name.as_str(), ann.uid.as_str()), ("ann", "7"));
        assert_eq!(ann.groups, ["a", "b"]);
        assert!(file.user("t2").unwrap().groups.is_empty());
        assert_eq!(file.user("t3").unwrap().name, "say \"x\"");
        assert_eq!(file.user("t3").unwrap().groups, ["c"]);
        assert!(file.user("").is_none() && file.user("t4").is_none());
        assert_eq!(read("t,a,1\nt,b,2\n").unwrap().user("t").unwrap().name, "b");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        assert_eq!(
            read("t1,ann").err().unwrap(),
            "token file 'tokens.csv' must have at least 3 columns (token, user name, user uid), found 2"
        );
        assert_eq!(read("t,a\"b,1").err().unwrap(), "record 1: bare \" in non-quoted field");
        assert!(read("a,b,c\nt,\"ab,1").err().unwrap().starts_with("record 2: extraneous or missing"));
        assert!(read("t,\"a\"b,1").err().unwrap().contains("extraneous"));
    }
}
