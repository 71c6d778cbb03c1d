//! The statements in `deploy/` about the gateway: its ports, its configurations, and the files that it names.

use crate::support::daemon::run;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy().join(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// The ports that the gateway listens on, from `--sample-config`. With `network`, only those for other machines.
fn listening(network: bool) -> BTreeSet<u16> {
    let output = run(&["--sample-config"], &[]);
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .filter_map(|line| {
            line.strip_prefix("#bind = ")
                .or_else(|| line.strip_prefix("#tls_bind = "))
        })
        .filter(|value| !network || value.contains("[::]"))
        .flat_map(|value| value.split('"').skip(1).step_by(2).map(port).collect::<Vec<_>>())
        .collect()
}

/// The number after the last colon.
fn port(address: &str) -> u16 {
    address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or_else(|| panic!("{address:?} has no port"))
}

/// The lines below `key:` that are indented further, without their indentation. The chart and compose.yaml use plain
/// blocks only.
fn below<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = yaml.lines().skip_while(|line| line.trim() != key);
    let depth = indent(lines.next().unwrap_or_else(|| panic!("there is no {key}")));
    lines
        .take_while(|line| line.is_empty() || indent(line) > depth)
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// The bug: it left out 15673, 15676 and 15671.
#[test]
fn the_image_exposes_every_port_that_may_listen() {
    let containerfile = read("container/Containerfile");
    let exposed: BTreeSet<u16> = containerfile
        .lines()
        .find_map(|line| line.strip_prefix("EXPOSE "))
        .expect("a line EXPOSE")
        .split(' ')
        .map(port)
        .collect();
    assert_eq!(exposed, listening(false));
}

/// The console and the management API are for administrators, so they are published to this machine only.
#[test]
fn compose_publishes_ports_of_the_gateway_and_the_console_to_this_machine_only() {
    let compose = read("container/compose.yaml");
    let service = compose
        .split("\n  prometheus:\n")
        .next()
        .expect("the gateway's service");
    let published: Vec<&str> = below(service, "ports:")
        .into_iter()
        .map(|line| line.trim_start_matches("- ").trim_matches('"'))
        .collect();
    let mut ports = BTreeSet::new();
    for mapping in published {
        let inside = port(mapping);
        let outside = mapping.strip_suffix(&format!(":{inside}")).expect("a port of the host");
        let this_machine = outside.strip_prefix("127.0.0.1:");
        assert_eq!(port(outside), inside, "{mapping}");
        assert_eq!(this_machine.is_some(), matches!(inside, 15671 | 15672), "{mapping}");
        ports.insert(inside);
    }
    assert!(ports.is_subset(&listening(false)), "{ports:?}");
    assert!(ports.contains(&15672), "the console is not published");
}

#[test]
fn the_chart_publishes_ports_of_the_gateway_and_names_values_that_are_there() {
    let values = read("helm/gatepost/values.yaml");
    let ports: BTreeSet<u16> = below(&values, "ports:")
        .into_iter()
        .map(|line| port(&line.replace(' ', "")))
        .collect();
    assert!(!ports.is_empty() && ports.is_subset(&listening(true)), "{ports:?}");

    let templates = fs::read_dir(deploy().join("helm/gatepost/templates")).expect("templates");
    for entry in templates {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a template");
        assert_eq!(
            text.matches("{{").count(),
            text.matches("}}").count(),
            "{}",
            path.display()
        );
        for rest in text.split(".Values.").skip(1) {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '.')
                .collect();
            let mut within = values.clone();
            for key in name.split('.') {
                let line = within
                    .lines()
                    .find(|line| line.trim_start().starts_with(&format!("{key}:")));
                let line = line.unwrap_or_else(|| panic!("{}: values.yaml has no {name}", path.display()));
                within = below(&within.clone(), line.trim()).join("\n");
            }
        }
    }
}

#[test]
fn configurations_of_the_packages_are_valid() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("deploy-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let chart = below(&read("helm/gatepost/values.yaml"), "config: |").join("\n");
    for (name, text) in [
        ("container", read("container/gatepost.toml")),
        ("debian", read("debian/gatepost.toml")),
        ("helm", chart),
    ] {
        let file = directory.join(name);
        fs::write(&file, text).expect("a file");
        let output = run(
            &["--check-config", "--config", file.to_str().expect("a name in UTF-8")],
            &[],
        );
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    fs::remove_dir_all(&directory).expect("removed");
}

/// Files that compose mounts and that the unit and the image name.
#[test]
fn named_files_exist() {
    for line in read("container/compose.yaml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ."))
    {
        let file = format!(".{}", line.split(':').next().unwrap_or_default());
        assert!(deploy().join("container").join(&file).exists(), "compose.yaml: {file}");
    }
    let containerfile = read("container/Containerfile");
    for line in containerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY deploy/"))
    {
        let file = line.split(' ').next().unwrap_or_default();
        assert!(deploy().join(file).exists(), "Containerfile: {file}");
    }
}
