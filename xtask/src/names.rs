//! Tests and transcripts that a document names exist, so that no line of it promises what nothing shows.

/// A file of the repository: its path and what is in it.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What a document names in backquotes and nobody has: `file.rs: function`, a function behind it in the same
/// line, `file.rs`, `file.txt`. A path is given by its end.
pub(crate) fn faults(document: &str, text: &str, files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut last: Option<&str> = None;
        for quoted in line.split('`').skip(1).step_by(2) {
            let (file, function) = match quoted.split_once(": ") {
                Some((file, function)) => (Some(file), Some(function)),
                None if is_file(quoted) => (Some(quoted), None),
                None => (None, Some(quoted).filter(|name| is_function(name))),
            };
            let missing = match (file.filter(|file| is_file(file)), function) {
                (Some(file), function) => {
                    last = Some(file).filter(|file| file.ends_with(".rs"));
                    !has(files, file, function)
                }
                (None, Some(function)) if file.is_none() => last.is_some_and(|file| {
                    let target = format!("fuzz_targets/{function}.rs");
                    !has(files, file, Some(function)) && !has(files, &target, None)
                }),
                _ => false,
            };
            if missing {
                faults.push(format!(
                    "{document}:{number} names {quoted}, which is not there"
                ));
            }
        }
    }
    faults
}

fn is_file(quoted: &str) -> bool {
    let plain = !quoted.contains([' ', '*', '<', '{', ':']);
    plain && (quoted.ends_with(".rs") || quoted.ends_with(".txt"))
}

fn is_function(quoted: &str) -> bool {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    quoted.matches('_').count() >= 2 && quoted.chars().all(letters)
}

fn has(files: &[File], end: &str, function: Option<&str>) -> bool {
    files.iter().any(|file| {
        let same = file
            .path
            .strip_suffix(end)
            .is_some_and(|before| before.is_empty() || before.ends_with('/'));
        same && function.is_none_or(|name| file.text.contains(&format!("fn {name}(")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_has() {
        let file = |path: &str, text: &str| File {
            path: path.into(),
            text: text.into(),
        };
        let files = [
            file("crates/a/tests/one.rs", "fn it_is_so() {}"),
            file("crates/a/tests/card/x.txt", ""),
            file("fuzz/fuzz_targets/any_old_card.rs", ""),
        ];
        let check = |text: &str, expected: usize| {
            assert_eq!(faults("d.md", text, &files).len(), expected, "{text}");
        };
        check(
            "`one.rs: it_is_so`, `tests/one.rs`, `x.txt`, `card/x.txt`",
            0,
        );
        check("`one.rs: it_was_so`", 1);
        check("`one.rs: it_is_so`, `it_was_so`, `any_old_card`", 1);
        check("`it_was_so` of every parser", 0);
        check("`none.rs`, `d/x.txt`, `ne.rs`", 3);
        check("`A0 80`, `*.txt`, `gose element use`", 0);
    }
}
