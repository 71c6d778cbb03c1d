//! Draws a comparison as one SVG page of horizontal bars. The scale is logarithmic, since the figures span three powers
//! of ten; each bar shows its figure.

use super::table::{Comparison, Row, Table, figure};
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const LABELS: f64 = 350.0;
const FIGURES: f64 = 90.0;
const BAR: f64 = 13.0;
const GAP: f64 = 8.0;
const COLOURS: &[&str] = &["#1f6feb", "#79b8ff", "#f08c00", "#7a5195", "#8a8a8a", "#2f9e44"];

/// The drawing of all tables that have figures.
pub(crate) fn svg(comparison: &Comparison) -> String {
    let mut body = String::new();
    let mut y = 30.0;
    let mut x = 16.0;
    for (place, broker) in comparison.brokers.iter().enumerate() {
        let label = if broker.installed {
            broker.name.clone()
        } else {
            format!("{} (not installed)", broker.name)
        };
        let _ = write!(
            body,
            r#"<rect x="{x}" y="{}" width="12" height="12" fill="{}"/>"#,
            y - 11.0,
            colour(place)
        );
        let _ = writeln!(body, r#"<text x="{}" y="{y}">{}</text>"#, x + 18.0, escape(&label));
        x += 34.0 + 7.0 * label.chars().count() as f64;
    }
    for table in comparison.tables.iter().filter(|table| largest(table) > 0.0) {
        draw_table(&mut body, table, &mut y);
    }
    let height = y + 20.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn draw_table(body: &mut String, table: &Table, y: &mut f64) {
    *y += 40.0;
    let better = if table.lower_is_better {
        "shorter is better"
    } else {
        "longer is better"
    };
    let title = escape(table.title);
    let _ = writeln!(
        body,
        r#"<text x="16" y="{y}" font-size="15" font-weight="bold">{title} ({better})</text>"#
    );
    *y += 12.0;
    let (low, high) = (smallest(table), largest(table));
    for row in &table.rows {
        draw_row(body, row, y, low, high);
    }
}

fn draw_row(body: &mut String, row: &Row, y: &mut f64, low: f64, high: f64) {
    let bars: Vec<(usize, f64)> = row
        .cells
        .iter()
        .enumerate()
        .filter_map(|(place, cell)| Some((place, cell.median?)))
        .collect();
    if bars.is_empty() {
        return;
    }
    *y += GAP;
    let middle = *y + BAR * bars.len() as f64 / 2.0 + 4.0;
    let title = escape(&row.title);
    let _ = writeln!(
        body,
        r#"<text x="{}" y="{middle}" text-anchor="end">{title}</text>"#,
        LABELS - 8.0
    );
    for (place, value) in bars {
        let width = length(value, low, high);
        let fill = colour(place);
        let _ = write!(
            body,
            r#"<rect x="{LABELS}" y="{y}" width="{width:.1}" height="{}" fill="{fill}"/>"#,
            BAR - 2.0
        );
        let (text_x, text_y) = (LABELS + width + 5.0, *y + BAR - 4.0);
        let _ = writeln!(
            body,
            r#"<text x="{text_x:.1}" y="{text_y}" font-size="10">{}</text>"#,
            figure(value)
        );
        *y += BAR;
    }
}

/// Length of a bar: the smallest figure of a table is still visible.
fn length(value: f64, low: f64, high: f64) -> f64 {
    let room = WIDTH - LABELS - FIGURES;
    if value <= 0.0 || high <= low {
        return if value > 0.0 { room } else { 0.0 };
    }
    let share = (value / low).ln() / (high / low).ln();
    room * (0.06 + 0.94 * share)
}

fn medians(table: &Table) -> impl Iterator<Item = f64> {
    let cells = table.rows.iter().flat_map(|row| &row.cells);
    cells.filter_map(|cell| cell.median).filter(|median| *median > 0.0)
}

fn largest(table: &Table) -> f64 {
    medians(table).fold(0.0, f64::max)
}

fn smallest(table: &Table) -> f64 {
    medians(table).fold(f64::INFINITY, f64::min)
}

pub(crate) fn colour(place: usize) -> &'static str {
    COLOURS[place % COLOURS.len()]
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_figure_has_a_longer_bar_and_the_smallest_one_still_shows() {
        let lengths = [1.0, 10.0, 1000.0].map(|value| length(value, 1.0, 1000.0));
        assert!(
            lengths[0] > 20.0 && lengths[0] < lengths[1] && lengths[1] < lengths[2],
            "{lengths:?}"
        );
        assert!((lengths[2] - (WIDTH - LABELS - FIGURES)).abs() < 0.1);
        assert!(length(0.0, 1.0, 1000.0) == 0.0);
    }

    #[test]
    fn names_cannot_break_the_drawing() {
        assert_eq!(escape("a<b> & c"), "a&lt;b&gt; &amp; c");
    }
}
