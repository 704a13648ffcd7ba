//! Just enough of SMTP and POP3 to send mail and to look whether it is there.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sustain_vmdriver::Vm;

const PATIENCE: Duration = Duration::from_secs(180);

/// A guest's mail ports.
pub(crate) struct Post {
    smtp: SocketAddr,
    pop3: SocketAddr,
}

impl Post {
    pub(crate) fn of(vm: &dyn Vm) -> Self {
        let host = |port| vm.forwards().iter().find(|forward| forward.guest_port == port).unwrap().host;
        Self { smtp: host(25), pop3: host(110) }
    }

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
