//! Counts a broker's syncs in the output of `strace -f -ttt`.

/// The start of each sync, in seconds of wall-clock time.
///
/// ```text
/// 4711 1795230733.279348 fdatasync(9)  = 0
/// 4711 1795230733.279501 fsync(12 <unfinished ...>
/// 4711 1795230733.280102 <... fsync resumed>) = 0
/// ```
pub(crate) fn sync_times(log: &str) -> impl Iterator<Item = f64> {
    log.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (_thread, at, call) = (words.next()?, words.next()?, words.next()?);
        let (name, _) = call.split_once('(')?;
        matches!(name, "fsync" | "fdatasync" | "syncfs" | "msync" | "sync_file_range").then_some(at.parse().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_was_interrupted_counts_once() {
        let log = include_str!("../../fixtures/strace.txt");
        let times: Vec<f64> = sync_times(log).collect();
        assert_eq!(times, [1795230733.25, 1795230733.5, 1795230734.0, 1795230734.75]);
    }
}
