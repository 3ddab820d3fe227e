//! Checks the width of what people read beside the code: comments, the contract, and code in
//! Markdown. rustfmt keeps the width of the code itself.

use std::{fs, process::Command};

use crate::stage::{Outcome, root};

/// The most columns of a comment or a line of the contract.
const COMMENT: usize = 100;
/// The most columns of a line of code in Markdown.
const MARKDOWN_CODE: usize = 100;

/// Checks every file that git tracks.
pub(crate) fn check() -> Outcome {
    let listed = Command::new("git")
        .arg("ls-files")
        .current_dir(root())
        .output();
    let listed = listed.map_err(|e| format!("cannot run git: {e}"))?;
    let files = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut wide = Vec::new();
    // The frozen contracts stay as they were.
    for file in files
        .lines()
        .filter(|file| !file.starts_with("wit/frozen/"))
    {
        let is_wide: fn(&str) -> Vec<usize> = match file.rsplit_once('.') {
            Some((_, "rs")) => wide_comments,
            Some((_, "wit")) => wide_lines,
            Some((_, "md")) => wide_code,
            _ => continue,
        };
        // The file was removed, and the removal is not committed yet.
        let Ok(text) = fs::read_to_string(root().join(file)) else {
            continue;
        };
        wide.extend(
            is_wide(&text)
                .into_iter()
                .map(|line| format!("{file}:{line}")),
        );
    }
    if wide.is_empty() {
        return Ok(());
    }
    Err(format!("wider than {COMMENT} columns: {}", wide.join(", ")))
}

fn is_wider(line: &str, columns: usize) -> bool {
    line.chars().count() > columns
}

/// The line numbers, from 1 on, of lines that are wider than `columns`.
fn numbers<'a>(lines: impl Iterator<Item = (usize, &'a str)>, columns: usize) -> Vec<usize> {
    let wide = lines.filter(|(_, line)| is_wider(line, columns));
    wide.map(|(index, _)| index + 1).collect()
}

fn wide_comments(text: &str) -> Vec<usize> {
    let comments = text.lines().enumerate();
    numbers(
        comments.filter(|(_, line)| line.trim_start().starts_with("//")),
        COMMENT,
    )
}

fn wide_lines(text: &str) -> Vec<usize> {
    numbers(text.lines().enumerate(), COMMENT)
}

fn wide_code(text: &str) -> Vec<usize> {
    let mut is_code = false;
    let code = text.lines().enumerate().filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        is_code && !is_fence
    });
    numbers(code, MARKDOWN_CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_contract_and_code_in_markdown_are_measured_and_nothing_else() {
        let wide = "x".repeat(101);
        assert_eq!(
            wide_comments(&format!("let {wide};\n    // {wide}\n// x")),
            [2]
        );
        assert_eq!(wide_lines(&format!("x\n{wide}")), [2]);
        assert_eq!(
            wide_code(&format!("{wide}\n```\n{wide}\nx\n```\n{wide}")),
            [3]
        );
    }
}
