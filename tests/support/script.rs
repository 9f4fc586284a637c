//! A server that answers as a test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Answers each request as this says for its method and path, with a status and a body, or hangs
/// up without an answer.
pub fn serve(mut answer: impl FnMut(&str) -> Option<(u16, String)> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            let first = request(&mut stream);
            if let Some((status, body)) = answer(&first) {
                let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}", body.len());
                let answer = format!("{head}\r\nconnection: close\r\n\r\n{body}");
                let _ = stream.get_mut().write_all(answer.as_bytes());
            }
        }
    });
    url
}

/// Reads a request; its first line.
fn request(stream: &mut BufReader<TcpStream>) -> String {
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).expect("a request");
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a header");
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        if line.is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).expect("the body");
    first
}
