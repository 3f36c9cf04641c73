//! A program on a terminal of its own.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    pty::openpty,
    sys::termios::{LocalFlags, tcgetattr},
};

/// How long something is waited for. Long, because it only ends a test that has failed anyway.
const PATIENCE: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_millis(5);

/// What a person does who sits before it.
pub struct Terminal {
    keyboard: File,
    child: Child,
    shown: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    /// How much of what is shown was waited for.
    seen: usize,
}

impl Terminal {
    pub fn start(mut command: Command) -> Self {
        let pair = openpty(None, None).expect("a pseudo-terminal");
        let slave = || pair.slave.try_clone().expect("a second handle");
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("the program starts");
        // The command keeps the child's end open, and with it the reader.
        drop((command, pair.slave));
        let mut screen = File::from(pair.master.try_clone().expect("a second handle"));
        let shown = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let shown = Arc::clone(&shown);
            move || {
                let mut bytes = [0; 4_096];
                // Linux answers with an error when nobody holds the other end any more.
                while let Ok(length @ 1..) = screen.read(&mut bytes) {
                    shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
                }
            }
        });
        Self { keyboard: File::from(pair.master), child, shown, reader, seen: 0 }
    }

    /// Waits until a text is shown behind what was waited for before.
    pub fn expect(&mut self, text: &str) {
        self.wait(text, |terminal| {
            let shown = terminal.shown.lock().unwrap();
            let found = shown[terminal.seen..].find(text).map(|at| terminal.seen + at + text.len());
            drop(shown);
            found.is_some_and(|end| {
                terminal.seen = end;
                true
            })
        });
    }

    /// Answers a question.
    pub fn answer(&mut self, question: &str, answer: &str) {
        self.expect(question);
        writeln!(self.keyboard, "{answer}").expect("the terminal takes it");
    }

    /// Answers a question once the terminal no longer shows what is typed.
    pub fn answer_unseen(&mut self, question: &str, answer: &str) {
        self.expect(question);
        self.wait("silence", |terminal| {
            let modes = tcgetattr(terminal.keyboard.as_fd()).expect("the terminal's modes");
            !modes.local_flags.contains(LocalFlags::ECHO)
        });
        writeln!(self.keyboard, "{answer}").expect("the terminal takes it");
    }

    /// Waits for the end. Returns all that was shown.
    pub fn finish(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("the program ends");
        self.reader.join().expect("the reader ends");
        let shown = self.shown.lock().unwrap().clone();
        (status, shown)
    }

    fn wait(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        while !holds(self) {
            let shown = self.shown.lock().unwrap().clone();
            assert!(started.elapsed() < PATIENCE, "{what:?} is not shown:\n{shown}");
            std::thread::sleep(PAUSE);
        }
    }
}
