//! Just enough of SMTP, POP3 and IMAP to send mail and to look whether it is there.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(180);

/// Where a guest's mail ports are to be had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Post {
    pub(crate) smtp: SocketAddr,
    pub(crate) pop3: SocketAddr,
    pub(crate) imap: SocketAddr,
}

impl Post {
    pub(crate) fn wait_for_banner(&self) {
        let started = Instant::now();
        while Talk::open(self.smtp, Duration::from_secs(2))
            .is_none_or(|mut talk| !talk.hear().starts_with("220 "))
        {
            assert!(started.elapsed() < PATIENCE, "no banner from the mail server");
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn wait_for_mails(&self, user: &str, count: usize) {
        let started = Instant::now();
        loop {
            let found = mailbox(self, user).len();
            if found == count {
                return;
            }
            assert!(started.elapsed() < PATIENCE && found < count, "{user} has {found} mails, not {count}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Sends one mail, and returns once the server has accepted it.
pub(crate) fn send(post: &Post, users: &[&str], id: &str, number: usize) {
    let mut talk = Talk::open(post.smtp, PATIENCE).unwrap();
    talk.expect(None, "220");
    talk.expect(Some("HELO test"), "250");
    talk.expect(Some("MAIL FROM:<test@example.org>"), "250");
    for user in users {
        talk.expect(Some(&format!("RCPT TO:<{user}@mail.test>")), "250");
    }
    talk.expect(Some("DATA"), "354");
    let text =
        format!("Message-ID: <{id}>\r\nSubject: number {number}\r\n\r\n{}\r\n.", "some text ".repeat(50));
    talk.expect(Some(&text), "250");
    talk.expect(Some("QUIT"), "221");
}

/// The ids of a user's mails.
pub(crate) fn mailbox(post: &Post, user: &str) -> Vec<String> {
    let mut talk = Talk::open(post.pop3, PATIENCE).unwrap();
    talk.expect(None, "+OK");
    talk.expect(Some(&format!("USER {user}")), "+OK");
    talk.expect(Some(&format!("PASS {}", user.replace("user", "secret"))), "+OK");
    let count: usize = talk.expect(Some("STAT"), "+OK").split(' ').nth(1).unwrap().parse().unwrap();
    let ids = (1..=count).map(|number| {
        talk.expect(Some(&format!("TOP {number} 0")), "+OK");
        let mut id = String::new();
        loop {
            let line = talk.hear();
            if let Some(text) = line.strip_prefix("Message-ID: <") {
                id = text.trim_end_matches('>').to_owned();
            }
            if line == "." {
                return id;
            }
        }
    });
    ids.collect()
}

/// How many mails IMAP shows.
pub(crate) fn counted_by_imap(post: &Post, user: &str) -> usize {
    let mut talk = Talk::open(post.imap, PATIENCE).unwrap();
    talk.expect(None, "* OK");
    talk.expect(Some(&format!("a LOGIN {user} {}", user.replace("user", "secret"))), "a OK");
    write!(talk.stream, "b EXAMINE INBOX\r\n").unwrap();
    loop {
        let line = talk.hear();
        if let Some(count) = line.strip_prefix("* ").and_then(|line| line.strip_suffix(" EXISTS")) {
            return count.parse().unwrap();
        }
        assert!(line.starts_with('*'), "{line:?} instead of a count");
    }
}

/// A conversation in lines.
struct Talk {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Talk {
    fn open(address: SocketAddr, patience: Duration) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, patience).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        let lines = BufReader::new(stream.try_clone().ok()?);
        Some(Self { stream, lines })
    }

    /// The next line; empty if there is none.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        let _ = self.lines.read_line(&mut line);
        line.trim_end().to_owned()
    }

    fn expect(&mut self, say: Option<&str>, answer: &str) -> String {
        if let Some(say) = say {
            write!(self.stream, "{say}\r\n").unwrap();
        }
        let line = self.hear();
        assert!(line.starts_with(answer), "{say:?} was answered by {line:?}");
        line
    }
}
