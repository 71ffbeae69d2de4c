//! Documents that are followed to the letter: their blocks run in shells that stay open, as a reader's terminals do.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::free_port;

const DONE: &str = "--- block done:";

/// A fenced block: what stands behind the backticks, and the lines.
#[derive(Debug, PartialEq)]
pub(crate) struct Block<'a> {
    pub(crate) tag: &'a str,
    pub(crate) text: String,
}

pub(crate) fn blocks(document: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(tag) = line.strip_prefix("```") {
            let text: String =
                lines.by_ref().take_while(|line| *line != "```").flat_map(|line| [line, "\n"]).collect();
            blocks.push(Block { tag, text });
        }
    }
    blocks
}

/// A reader with a directory, terminals with names, and other ports than the document's.
pub(crate) struct Reader {
    home: tempfile::TempDir,
    ports: Ports,
    terminals: BTreeMap<String, Terminal>,
}

impl Reader {
    /// Who is going to read documents with the addresses of this one.
    pub(crate) fn of(document: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let data = Path::new("../../tests").canonicalize().unwrap();
        std::os::unix::fs::symlink(data, home.path().join("tests")).unwrap();
        Self { home, ports: Ports::of(document), terminals: BTreeMap::new() }
    }

    /// A file of the quickstart's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join("quickstart").join(name)
    }

    /// An address of the document, as it is here.
    pub(crate) fn address(&self, written: &str) -> String {
        self.ports.substitute(written)
    }

    /// Does what the document says; gives what the terminals printed. After each block `look` sees what it printed.
    pub(crate) fn follow(&mut self, document: &str, mut look: impl FnMut(&Self, &str)) -> String {
        let mut printed = String::new();
        for block in blocks(document) {
            let text = self.ports.substitute(&block.text);
            // For the eye only.
            if block.tag.is_empty() {
                continue;
            }
            match block.tag.split_once(' ').unwrap() {
                // Cargo has built the program for this test.
                ("sh", "build") => {}
                ("sh", "setup") => {
                    Terminal::open(self.home.path()).run(&text);
                }
                ("sh", name) => {
                    let root = self.path("");
                    let terminal =
                        self.terminals.entry(name.to_owned()).or_insert_with(|| Terminal::open(&root));
                    let said = terminal.run(&text);
                    look(self, &said);
                    printed.push_str(&said);
                }
                ("toml" | "json", file) => {
                    let file = file.strip_prefix("file=").unwrap();
                    std::fs::write(self.path(file), text).unwrap();
                }
                (language, _) => panic!("a block of {language} is not understood"),
            }
        }
        printed
    }
}

/// Every address in the document, on a free port.
struct Ports(Vec<(String, String)>);

impl Ports {
    fn of(document: &str) -> Self {
        const HOST: &str = "127.0.0.1:";
        let mut ports: Vec<(String, String)> = Vec::new();
        for (at, _) in document.match_indices(HOST) {
            let digits: String =
                document[at + HOST.len()..].chars().take_while(char::is_ascii_digit).collect();
            let written = format!("{HOST}{digits}");
            if !ports.iter().any(|(known, _)| *known == written) {
                ports.push((written, format!("{HOST}{}", free_port())));
            }
        }
        assert_eq!(ports.len(), 7, "{ports:?}");
        Self(ports)
    }

    fn substitute(&self, text: &str) -> String {
        // In two passes: a new address may look like one that is still to be replaced.
        let marked = self.0.iter().enumerate();
        let text =
            marked.fold(text.to_owned(), |text, (index, (old, _))| text.replace(old, &format!("<{index}>")));
        let new = self.0.iter().enumerate();
        new.fold(text, |text, (index, (_, new))| text.replace(&format!("<{index}>"), new))
    }
}

/// One shell that stays open, as a terminal does.
struct Terminal {
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Terminal {
    fn open(directory: &Path) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_huitong")).parent().unwrap();
        let mut shell = Command::new("bash")
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        let mut terminal = Self { shell, input, output: BufReader::new(output) };
        // Nodes of a shell that dies must not outlive it; errors belong to what is printed.
        let path = format!("export PATH=\"{}:$PATH\"", program.display());
        terminal.run(&format!("exec 2>&1\ntrap 'kill $(jobs -p) 2> /dev/null' EXIT\n{path}\n"));
        terminal
    }

    /// Runs a block, each line of which must succeed; gives what was printed.
    fn run(&mut self, block: &str) -> String {
        let block = block.trim_end();
        // `|| failed=...` instead of `set -e`, so that the shell lives to say where it stood.
        let mut script = String::from("failed=\n");
        for line in block.lines() {
            match line.ends_with('&') {
                // Standard input stays the shell's own.
                true => script.push_str(&format!("{} < /dev/null &\n", line.trim_end_matches('&'))),
                false => script.push_str(&format!("{{ {line}; }} < /dev/null || failed=${{failed:-$?}}\n")),
            }
        }
        script.push_str(&format!("echo \"{DONE} ${{failed:-0}}\"\n"));
        self.input.write_all(script.as_bytes()).unwrap();
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the shell ended in:\n{block}\n{printed}");
            if let Some(code) = line.trim_end().strip_prefix(DONE) {
                assert_eq!(code.trim(), "0", "{block}\nprinted:\n{printed}");
                return printed;
            }
            printed.push_str(&line);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The shell's trap ends its nodes.
        let _ = self.input.write_all(b"exit\n");
        let _ = self.shell.wait();
    }
}
