//! A sweep of the load, from a tenth of what the broker can carry to twice that: its throughput, its cost, and
//! latencies.
//!
//! First the broker is loaded without a pace; its throughput then is 100 %. The steps follow, each a run at a share of
//! that rate, where latency counts from when each message was scheduled to leave.

use crate::backlog::plot::{Line, Panel, Plot};
use crate::options::RunOptions;
use crate::plan::Plan;
use crate::report::Report;
use crate::run;
use anyhow::{Context, ensure};
use std::path::PathBuf;
use std::time::Duration;

/// Loads one running broker at rising rates, and draws the results.
#[derive(Debug, clap::Args)]
pub(crate) struct SweepOptions {
    #[command(flatten)]
    run: RunOptions,
    /// Shares of the saturated rate, in percent
    #[arg(long, value_delimiter = ',', default_value = "10,25,50,75,90,100,125,150,200")]
    percent: Vec<f64>,
    /// Messages a second that count as 100 %, instead of measuring them first
    #[arg(long)]
    full_rate: Option<f64>,
    /// Seconds of each step
    #[arg(long, default_value_t = 5.0)]
    step_seconds: f64,
    /// Write the drawing of throughput, processor time and latency over the offered load (SVG) to this file
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// A step.
#[derive(Debug, serde::Serialize)]
struct Step {
    offered_per_second: f64,
    report: Report,
}

/// Runs all steps. Returns whether every message of all of them came once, in order and whole.
///
/// # Errors
/// A step could not be measured.
pub(crate) fn sweep(options: &SweepOptions) -> anyhow::Result<bool> {
    ensure!(options.step_seconds > 0.0, "--step-seconds is above 0");
    ensure!(
        !options.percent.is_empty() && options.percent.iter().all(|percent| *percent > 0.0),
        "--percent is above 0"
    );
    let step = |rate: Option<f64>| -> anyhow::Result<Report> {
        let plan = Plan {
            count: u64::MAX,
            duration: Some(Duration::from_secs_f64(options.step_seconds)),
            rate,
            // Over 100 % only the broker may hold publishers back, since this is measured.
            ahead: if rate.is_some() { 0 } else { options.run.plan()?.ahead },
            ..options.run.plan()?
        };
        run::run(&plan)
    };
    let full = match options.full_rate {
        Some(rate) => rate,
        None => {
            let report = step(None)?;
            println!("saturated\n{report}\n");
            report.published_per_second
        }
    };
    ensure!(full > 0.0, "nothing was delivered");
    let mut steps = Vec::new();
    for percent in &options.percent {
        let offered_per_second = full * percent / 100.0;
        let report = step(Some(offered_per_second))?;
        println!("{percent} %: {offered_per_second:.0}/s offered\n{report}\n");
        steps.push(Step {
            offered_per_second,
            report,
        });
    }
    if let Some(path) = options.run.json() {
        let json = serde_json::to_string_pretty(&steps)?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, plot(&steps).svg()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(steps.iter().all(|step| step.report.clean))
}

/// Throughput, processor time and latency over the offered load.
fn plot(steps: &[Step]) -> Plot {
    let line = |who: usize, of: &dyn Fn(&Report) -> Option<f64>| Line {
        who,
        points: steps.iter().map(|s| (s.offered_per_second, of(&s.report))).collect(),
    };
    let panel = |title: &str, lines: Vec<Line>| Panel {
        title: title.into(),
        lines,
    };
    Plot {
        title: "What the broker does of what it is offered".into(),
        axis: "messages a second offered",
        phases: Vec::new(),
        legend: vec!["in all, or p99".into(), "user, or p50".into(), "kernel".into()],
        panels: vec![
            panel(
                "delivered, messages a second",
                vec![line(0, &|report| Some(report.delivered_per_second))],
            ),
            panel(
                "processor time of the broker, µs a message",
                vec![
                    line(0, &|report| Some(report.broker?.cpu_us_per_message)),
                    line(1, &|report| Some(report.broker?.user_us_per_message())),
                    line(2, &|report| Some(report.broker?.kernel_us_per_message())),
                ],
            ),
            panel(
                "latency, µs",
                vec![
                    line(0, &|report| Some(report.latency?.p99_us)),
                    line(1, &|report| Some(report.latency?.p50_us)),
                ],
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        sweep: SweepOptions,
    }

    #[test]
    fn a_sweep_is_a_run_with_steps() {
        let cli = Cli::parse_from(["x", "--protocol", "mqtt", "--publishers", "2", "--percent", "10,50,200"]);
        assert_eq!(cli.sweep.percent, [10.0, 50.0, 200.0]);
        let plan = cli.sweep.run.plan().expect("a plan");
        assert_eq!(plan.publishers, 2);
    }

    #[test]
    fn a_drawing_has_a_panel_for_each_quantity() {
        let svg = plot(&[]).svg();
        for title in ["delivered", "processor time", "latency", "offered"] {
            assert!(svg.contains(title), "{title}");
        }
    }
}
