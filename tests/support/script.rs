//! A server that answers as a test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
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

/// Passes each request on to this node, waits until it is answered, and hangs up without
/// passing the answer back.
pub fn lose_answers(node: SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            let asked = whole_request(&mut stream);
            let mut node = TcpStream::connect(node).expect("the node listens");
            node.write_all(&asked).expect("it is sent");
            let mut answer = String::new();
            BufReader::new(node).read_line(&mut answer).expect("an answer");
        }
    });
    url
}

/// Reads a request; its first line.
fn request(stream: &mut BufReader<TcpStream>) -> String {
    let whole = whole_request(stream);
    let first = whole.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(first).into_owned()
}

/// Reads a request.
fn whole_request(stream: &mut BufReader<TcpStream>) -> Vec<u8> {
    let (mut whole, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a line of a request");
        whole.extend_from_slice(line.as_bytes());
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("the body");
    whole.extend_from_slice(&body);
    whole
}
