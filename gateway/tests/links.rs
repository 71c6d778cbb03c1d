//! The Markdown of the repository: every link has a target, and every page is in the book.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Markdown files except those of third parties.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !matches!(name.as_str(), "target" | "node_modules" | ".git") {
                directories.push(path);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found
}

/// The text outside code. A line may contain code or not.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            // Inline code may hold brackets that are no link.
            for (n, part) in line.split('`').enumerate() {
                prose.push_str(if n % 2 == 0 { part } else { "code" });
            }
            prose.push('\n');
        }
    }
    prose
}

/// The targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    prose
        .split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect()
}

/// A heading's anchor, as GitHub and mdBook make it.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let Some(heading) = line.strip_prefix('#').filter(|_| !fenced) else {
            continue;
        };
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        anchors.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    anchors
}

fn broken(page: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link
        .split_once('#')
        .map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = if file.is_empty() {
        page.to_owned()
    } else {
        page.parent().unwrap_or(page).join(file)
    };
    if !target.exists() {
        return Some(format!("{}: {link}: there is no such file", page.display()));
    }
    let text = fs::read_to_string(target).unwrap_or_default();
    let anchor = anchor.filter(|anchor| !anchors(&text).contains(*anchor))?;
    Some(format!("{}: {link}: there is no heading for {anchor}", page.display()))
}

#[test]
fn every_link_has_a_target() {
    let mut problems = Vec::new();
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        for link in links(&text) {
            checked += 1;
            problems.extend(broken(&page, &link));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(checked > 30, "only {checked} links were found");
}

#[test]
fn every_page_is_in_the_book_and_what_it_includes_is_there() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("a summary");
    let listed: BTreeSet<String> = links(&summary).into_iter().collect();
    for entry in fs::read_dir(&docs).expect("the docs") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        if !name.ends_with(".md") || name == "SUMMARY.md" {
            continue;
        }
        assert!(listed.contains(&name), "docs/{name} is not in docs/SUMMARY.md");
        let text = fs::read_to_string(docs.join(&name)).expect("a page");
        for include in text.split("{{#include ").skip(1) {
            let (path, anchor) = include
                .split_once("}}")
                .and_then(|(target, _)| target.split_once(':'))
                .expect("a path and an anchor");
            let included = fs::read_to_string(docs.join(path)).expect("an included file");
            for mark in ["ANCHOR", "ANCHOR_END"] {
                assert!(
                    included.contains(&format!("<!-- {mark}: {anchor} -->")),
                    "{name}: {path} has no {mark} {anchor}"
                );
            }
        }
    }
}
