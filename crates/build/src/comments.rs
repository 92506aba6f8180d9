//! Turns comments of a .proto into documentation: text, never code to run.
//!
//! rustdoc reads Markdown. In Markdown an indented line is code, which `cargo test` runs, a bracket
//! is a link to nowhere, and `Vec<T>` is an HTML tag that is not closed. The author of the .proto
//! meant none of these. Other Markdown does no harm, and stays.

use prost_types::FileDescriptorSet;

/// Turns blocks of code, links and tags in all comments into text. `code` between single backticks
/// stays, and so do headings, emphasis, lists, tables, entities and URLs, because authors may well
/// mean these.
pub(crate) fn make_plain(descriptors: &mut FileDescriptorSet) {
    let infos = descriptors.file.iter_mut().filter_map(|file| file.source_code_info.as_mut());
    for location in infos.flat_map(|info| &mut info.location) {
        let attached = [&mut location.leading_comments, &mut location.trailing_comments];
        let attached = attached.into_iter().flatten();
        attached
            .chain(&mut location.leading_detached_comments)
            .for_each(|comment| *comment = plain(comment));
    }
}

fn plain(comment: &str) -> String {
    comment.lines().map(plain_line).collect::<Vec<_>>().join("\n")
}

fn plain_line(line: &str) -> String {
    // Several spaces also make a line code behind the mark of a list or of a quotation.
    let line: String = line.chars().filter(|char| !is_direction(char)).collect();
    let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut out = String::from(if words.is_empty() { "" } else { " " });
    let parts: Vec<&str> = words.split('`').collect();
    let has_spans =
        parts.len() % 2 == 1 && parts.iter().skip(1).step_by(2).all(|it| !it.is_empty());
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push_str(if has_spans { "`" } else { "\\`" });
        }
        match has_spans && index % 2 == 1 {
            true => out.push_str(part),
            false => part.chars().for_each(|char| push_plain(char, &mut out)),
        }
    }
    out
}

fn push_plain(char: char, out: &mut String) {
    if matches!(char, '[' | ']' | '<' | '>' | '~' | '\\') {
        out.push('\\');
    }
    out.push(char);
}

/// Marks that change the direction of text. The compiler refuses them in comments, because they can
/// hide code.
fn is_direction(char: &char) -> bool {
    matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_comment_is_code() {
        for (comment, expected) in [
            (" One line.", " One line."),
            ("     let x = 1;", " let x = 1;"),
            ("\tpanic!();", " panic!();"),
            (" -      indented.in(a, list);", " - indented.in(a, list);"),
            (" ```\n code\n ```", " \\`\\`\\`\n code\n \\`\\`\\`"),
            (" > ~~~rust", " \\> \\~\\~\\~rust"),
            (" A [link] and a Vec<T>.", " A \\[link\\] and a Vec\\<T\\>."),
            (" A `Vec<[T]>` of `code`.", " A `Vec<[T]>` of `code`."),
            (" It's `not closed.", " It's \\`not closed."),
            (" ``two`` of them", " \\`\\`two\\`\\` of them"),
            ("\u{202e} turned", " turned"),
            (" one\r two", " one two"),
            // What stays, as the crate's documentation says.
            (" # A *b* _c_ 1. | &lt; http://d/", " # A *b* _c_ 1. | &lt; http://d/"),
            ("", ""),
        ] {
            assert_eq!(plain(comment), expected, "{comment:?}");
        }
    }
}
