//! Draws measurements as one SVG page: panels stacked over a common axis, usually time, with phases as bands behind
//! them.

use crate::compare::chart::{self, escape};
use crate::compare::table::figure;
use std::fmt::Write;

/// A page.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    /// The label of the axis.
    pub(crate) axis: &'static str,
    pub(crate) phases: Vec<Phase>,
    /// The names drawn, one for each colour.
    pub(crate) legend: Vec<String>,
    pub(crate) panels: Vec<Panel>,
}

/// A stretch of time with a name.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) from_s: f64,
    pub(crate) to_s: f64,
}

/// One quantity, with its unit in the title.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) lines: Vec<Line>,
}

/// One name's values of a quantity.
#[derive(Debug)]
pub(crate) struct Line {
    /// Index into the legend.
    pub(crate) who: usize,
    /// Positions on the axis (usually seconds) and values. Without a value the line is interrupted.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

const WIDTH: f64 = 960.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 94.0;
const PANEL: f64 = 150.0;
const BETWEEN: f64 = 44.0;
const BOTTOM: f64 = 46.0;
/// Approximate number of grid lines over a panel's height, and over its width.
const TICKS_Y: f64 = 4.0;
const TICKS_X: f64 = 10.0;
const BANDS: [&str; 2] = ["#f6f8fa", "#e9eef4"];

impl Plot {
    pub(crate) fn svg(&self) -> String {
        let mut body = String::new();
        let end_s = self.end_s();
        let height = TOP + self.panels.len() as f64 * (PANEL + BETWEEN) - BETWEEN + BOTTOM;
        let title = escape(&self.title);
        let _ = writeln!(
            body,
            r#"<text x="16" y="24" font-size="15" font-weight="bold">{title}</text>"#
        );
        self.draw_legend(&mut body);
        for (place, panel) in self.panels.iter().enumerate() {
            let top = TOP + place as f64 * (PANEL + BETWEEN);
            self.draw_bands(&mut body, top, end_s, place == 0);
            draw_panel(&mut body, panel, top, end_s);
        }
        let _ = writeln!(
            body,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            f64::midpoint(LEFT, WIDTH - RIGHT),
            height - 10.0,
            escape(self.axis)
        );
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#1b1f24\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
        )
    }

    fn end_s(&self) -> f64 {
        let lines = self.panels.iter().flat_map(|panel| &panel.lines);
        let last = lines.filter_map(|line| line.points.last()).map(|(at, _)| *at);
        last.chain(self.phases.iter().map(|phase| phase.to_s))
            .fold(1.0, f64::max)
    }

    fn draw_legend(&self, body: &mut String) {
        let mut x = 16.0;
        for (who, name) in self.legend.iter().enumerate() {
            let _ = writeln!(
                body,
                r#"<rect x="{x:.1}" y="36" width="12" height="12" fill="{}"/><text x="{:.1}" y="46">{}</text>"#,
                colour(who),
                x + 18.0,
                escape(name)
            );
            x += 40.0 + 7.0 * name.chars().count() as f64;
        }
    }

    fn draw_bands(&self, body: &mut String, top: f64, end_s: f64, named: bool) {
        for (place, phase) in self.phases.iter().enumerate() {
            let (from, to) = (x_of(phase.from_s, end_s), x_of(phase.to_s, end_s));
            let _ = writeln!(
                body,
                r#"<rect x="{from:.1}" y="{top:.1}" width="{:.1}" height="{PANEL}" fill="{}"/>"#,
                to - from,
                BANDS[place % BANDS.len()]
            );
            if named {
                let _ = writeln!(
                    body,
                    r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#57606a">{}</text>"##,
                    f64::midpoint(from, to),
                    top - 24.0,
                    escape(&phase.name)
                );
            }
        }
    }
}

fn draw_panel(body: &mut String, panel: &Panel, top: f64, end_s: f64) {
    let values = panel.lines.iter().flat_map(|line| &line.points);
    let largest = values.filter_map(|(_, value)| *value).fold(0.0, f64::max);
    let step = tick(largest, TICKS_Y);
    let high = (largest / step).ceil().max(1.0) * step;
    let bottom = top + PANEL;
    let y_of = |value: f64| bottom - PANEL * value / high;
    let _ = writeln!(
        body,
        r#"<text x="{LEFT}" y="{:.1}" font-weight="bold">{}</text>"#,
        top - 6.0,
        escape(&panel.title)
    );
    for number in 0..=(high / step).round() as u32 {
        let value = f64::from(number) * step;
        let y = y_of(value);
        let _ = writeln!(
            body,
            r##"<line x1="{LEFT}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="#d0d7de"/><text x="{:.1}" y="{:.1}" text-anchor="end" font-size="11">{}</text>"##,
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            axis_figure(value, step)
        );
    }
    let step_s = tick(end_s, TICKS_X);
    for number in 0..=(end_s / step_s) as u32 {
        let at_s = f64::from(number) * step_s;
        let x = x_of(at_s, end_s);
        let _ = writeln!(
            body,
            r##"<line x1="{x:.1}" y1="{bottom:.1}" x2="{x:.1}" y2="{:.1}" stroke="#57606a"/><text x="{x:.1}" y="{:.1}" text-anchor="middle" font-size="11">{}</text>"##,
            bottom + 4.0,
            bottom + 16.0,
            axis_figure(at_s, step_s)
        );
    }
    let _ = writeln!(
        body,
        r##"<path d="M{LEFT} {top:.1}V{bottom:.1}H{:.1}" fill="none" stroke="#57606a"/>"##,
        WIDTH - RIGHT
    );
    for line in &panel.lines {
        let mut path = String::new();
        let mut pen = 'M';
        for (at_s, value) in &line.points {
            let Some(value) = value else {
                pen = 'M';
                continue;
            };
            let _ = write!(path, "{pen}{:.1} {:.1}", x_of(*at_s, end_s), y_of(*value));
            pen = 'L';
        }
        let _ = writeln!(
            body,
            r#"<path d="{path}" fill="none" stroke="{}" stroke-width="1.8" stroke-linejoin="round"/>"#,
            colour(line.who)
        );
    }
}

/// Every other colour of the bar charts: neighbours there are shades of the same colour.
fn colour(who: usize) -> &'static str {
    chart::colour(2 * who)
}

fn x_of(at_s: f64, end_s: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * at_s / end_s
}

/// A step of one, two or five times a power of ten, so that about `count` steps make `range`.
fn tick(range: f64, count: f64) -> f64 {
    let rough = (range / count).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(steps[3])
}

/// A number on an axis, with as many decimals as its step needs.
fn axis_figure(value: f64, step: f64) -> String {
    if step >= 1.0 {
        figure(value.round())
            .trim_end_matches(".00")
            .trim_end_matches(".0")
            .to_owned()
    } else {
        format!("{value:.*}", (-step.log10()).ceil() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (range, step) in [(5200.0, 2000.0), (0.9, 0.5), (47.0, 20.0), (100.0, 50.0), (4.0, 1.0)] {
            assert!(
                (tick(range, TICKS_Y) - step).abs() < 1e-9,
                "{range}: {}",
                tick(range, TICKS_Y)
            );
        }
        assert_eq!(axis_figure(20.0, 10.0), "20");
        assert_eq!(axis_figure(5.0, 1.0), "5");
        assert_eq!(axis_figure(2000.0, 1000.0), "2,000");
        assert_eq!(axis_figure(0.5, 0.5), "0.5");
        assert_eq!(axis_figure(0.25, 0.05), "0.25");
    }

    /// A page that was inspected and accepted. To change it, inspect the new one and replace the file.
    #[test]
    fn a_small_plot_is_drawn_as_the_golden_one() {
        let phase = |name: &str, from_s, to_s| Phase {
            name: name.into(),
            from_s,
            to_s,
        };
        let line = |who, values: &[Option<f64>]| Line {
            who,
            points: values
                .iter()
                .enumerate()
                .map(|(at, value)| (at as f64, *value))
                .collect(),
        };
        let plot = Plot {
            title: "Slow & stuck".into(),
            axis: "seconds",
            phases: vec![phase("keeps up", 0.0, 2.0), phase("stuck", 2.0, 4.0)],
            legend: vec!["one".into(), "two".into()],
            panels: vec![
                Panel {
                    title: "Published, messages/s".into(),
                    lines: vec![
                        line(0, &[Some(0.0), Some(5000.0), Some(5000.0), Some(4900.0), Some(5100.0)]),
                        line(1, &[Some(0.0), Some(4000.0), None, Some(100.0), Some(200.0)]),
                    ],
                },
                Panel {
                    title: "RSS, MiB".into(),
                    lines: vec![line(0, &[Some(5.0), Some(6.5), Some(20.0), Some(20.0), Some(21.0)])],
                },
            ],
        };
        let golden = include_str!("../../fixtures/plot.svg");
        assert_eq!(plot.svg(), golden, "the plot was:\n{}", plot.svg());
    }
}
