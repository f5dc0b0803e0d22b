//! gofail's HTTP protocol: `GET /` lists `name=term`, `GET /name`, `PUT /name` with a term, `DELETE /name`.
//!
//! A thread of its own serves one request after the other, so that it answers whatever the rest of the process does.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::registry;

/// How long a request may take to arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest term, in bytes.
const MAX_BODY: usize = 4096;

/// Listens, and serves from a thread.
pub fn serve(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let accept = move || {
        for stream in listener.incoming().flatten() {
            // A caller that went away, or said nothing.
            drop(answer(stream));
        }
    };
    std::thread::Builder::new().name("failpoints".into()).spawn(accept).map(drop)
}

fn answer(stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (method, path) = match line.split(' ').collect::<Vec<_>>()[..] {
        [method, path, _] => (method.to_owned(), path.trim_start_matches('/').to_owned()),
        _ => return Ok(()),
    };
    let mut body = vec![0; body_length(&mut reader)?.min(MAX_BODY)];
    reader.read_exact(&mut body)?;
    let (status, text) = respond(&method, &path, &String::from_utf8_lossy(&body));
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n");
    let length = if text.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", text.len()) };
    reader.get_mut().write_all(format!("{head}{length}\r\n{text}").as_bytes())
}

/// Reads the headers; the length of what follows them.
fn body_length(reader: &mut BufReader<TcpStream>) -> io::Result<usize> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            return Ok(length);
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
}

fn respond(method: &str, path: &str, body: &str) -> (&'static str, String) {
    let done = |result: Result<(), String>| match result {
        Ok(()) => ("204 No Content", String::new()),
        Err(why) => ("400 Bad Request", format!("{why}\n")),
    };
    match method {
        "GET" if path.is_empty() => {
            let lines = registry::list().into_iter().map(|(point, term)| format!("{point}={term}\n"));
            ("200 OK", lines.collect())
        }
        "GET" => match registry::list().into_iter().find(|(point, _)| point == path) {
            Some((_, term)) => ("200 OK", format!("{term}\n")),
            None => ("404 Not Found", "failed to GET: failpoint: failpoint does not exist\n".to_owned()),
        },
        "PUT" if path.eq_ignore_ascii_case("failpoints") => done(registry::set_all(body)),
        "PUT" => done(registry::set(path, body)),
        "DELETE" => done(registry::clear(path)),
        _ => ("405 Method Not Allowed", "Method not allowed\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_listed_set_and_cleared() {
        registry::start(&["one", "two"]).expect("start");
        assert_eq!(respond("GET", "", ""), ("200 OK", "one=\ntwo=\n".to_owned()));
        assert_eq!(respond("PUT", "one", "1*return(\"x\")"), ("204 No Content", String::new()));
        assert_eq!(respond("GET", "one", ""), ("200 OK", "1*return(\"x\")\n".to_owned()));
        assert_eq!(registry::hit("one"), Some("x".to_owned()));
        assert_eq!(registry::hit("one"), None, "once only");
        assert_eq!(registry::hit("two"), None);
        assert_eq!(respond("DELETE", "one", "").0, "204 No Content");
        assert_eq!(respond("DELETE", "one", "").0, "400 Bad Request");
        assert_eq!(respond("PUT", "failpoints", "one=off;two=return(2)").0, "204 No Content");
        assert_eq!(registry::hit("two"), Some("2".to_owned()));
        assert_eq!(respond("PUT", "three", "panic").0, "400 Bad Request");
        assert_eq!(respond("PUT", "one", "explode").0, "400 Bad Request");
        assert_eq!(respond("GET", "three", "").0, "404 Not Found");
        assert_eq!(respond("POST", "one", "").0, "405 Method Not Allowed");
    }
}
