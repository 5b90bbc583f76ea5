//! Writes a comparison as one HTML file that needs nothing else: tables, no scripts, no pictures.

use super::compare::Comparison;
use super::table::{Grid, grids, preamble};
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .8rem;text-align:right;white-space:pre;border-bottom:1px solid #ddd}\
th:first-child,td:first-child{text-align:left}.wide{overflow-x:auto}.warning{color:#8a4b00}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}.warning{color:#f0b060}}";

/// A comparison as one self-contained HTML page. Everything that came from outside is escaped.
pub fn html(comparison: &Comparison) -> String {
    let title = format!("ragtune: {} runs compared", comparison.rows.len());
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    for warning in &comparison.warnings {
        push(&mut page, "p class=\"warning\"", "p", &format!("warning: {warning}"));
    }
    for grid in grids(comparison) {
        table(&mut page, &grid);
    }
    page.push_str("<h2>how to read it</h2>\n");
    for line in preamble(comparison) {
        push(&mut page, "p", "p", &line);
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn table(page: &mut String, grid: &Grid) {
    push(page, "h2", "h2", &grid.title);
    page.push_str("<div class=\"wide\"><table>\n");
    line(page, "th", &grid.header);
    for row in &grid.rows {
        line(page, "td", row);
    }
    page.push_str("</table></div>\n");
}

fn line(page: &mut String, cell: &str, cells: &[String]) {
    page.push_str("<tr>");
    for content in cells {
        let _ = write!(page, "<{cell}>{}</{cell}>", escape(content));
    }
    page.push_str("</tr>\n");
}

fn push(page: &mut String, open: &str, close: &str, content: &str) {
    let _ = writeln!(page, "<{open}>{}</{close}>", escape(content));
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
