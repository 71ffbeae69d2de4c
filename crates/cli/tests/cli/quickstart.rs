//! Follows `docs/quickstart.md` to the letter, in three shells, with other ports.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::free_port;

const DOCUMENT: &str = include_str!("../../../../docs/quickstart.md");
const CHINESE: &str = include_str!("../../../../docs/quickstart.zh-CN.md");
const DONE: &str = "--- block done:";

/// A fenced block: what stands behind the backticks, and the lines.
#[derive(Debug, PartialEq)]
struct Block<'a> {
    tag: &'a str,
    text: String,
}

fn blocks(document: &str) -> Vec<Block<'_>> {
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

#[test]
fn both_languages_show_the_same_commands() {
    assert!(blocks(DOCUMENT).len() > 10);
    assert_eq!(blocks(DOCUMENT), blocks(CHINESE));
}

#[test]
fn the_quickstart_works_as_written() {
    let home = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").canonicalize().unwrap();
    std::os::unix::fs::symlink(data, home.path().join("tests")).unwrap();
    let ports = Ports::of(DOCUMENT);
    let root = home.path().join("quickstart");
    let mut terminals: BTreeMap<&str, Terminal> = BTreeMap::new();
    let mut printed = String::new();
    for block in blocks(DOCUMENT) {
        let text = ports.substitute(&block.text);
        match block.tag.split_once(' ').unwrap() {
            // Cargo has built the program for this test.
            ("sh", "build") => {}
            ("sh", "setup") => {
                Terminal::open(home.path()).run(&text);
            }
            ("sh", name) => {
                let terminal = terminals.entry(name).or_insert_with(|| Terminal::open(&root));
                printed.push_str(&terminal.run(&text));
            }
            ("toml" | "json", file) => {
                let file = file.strip_prefix("file=").unwrap();
                std::fs::write(root.join(file), text).unwrap();
            }
            (language, _) => panic!("a block of {language} is not understood"),
        }
    }
    for sign in
        ["listed Daily weather observations", "FINALIZED", "合约 8", "COMPLETED", "VALID   121,417 bytes"]
    {
        assert!(printed.contains(sign), "{sign} is missing:\n{printed}");
    }
    assert!(printed.contains("policy.permission[0].count"), "{printed}");
    assert!(!printed.contains("fail "), "{printed}");
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
