//! Answers as `etcdutl` prints them.

use clap::ValueEnum;
use etcd_files::FileStatus;

/// How an answer looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WriteOut {
    /// Values with commas between.
    #[default]
    Simple,
    /// `"Name" : value`, one a line.
    Fields,
    /// One JSON object.
    Json,
    /// A table.
    Table,
}

/// A snapshot's status.
pub fn status(status: &FileStatus, out: WriteOut) -> String {
    let row = [
        format!("{:x}", status.hash),
        status.revision.to_string(),
        status.total_key.to_string(),
        human_bytes(status.total_size),
        status.version.clone(),
    ];
    match out {
        WriteOut::Simple => row.join(", "),
        WriteOut::Json => serde_json::to_string(status).unwrap_or_default(),
        WriteOut::Table => {
            table(&["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"], &[row.to_vec()])
        }
        WriteOut::Fields => format!(
            "\"Hash\" : {}\n\"Revision\" : {}\n\"Keys\" : {}\n\"Size\" : {}\n\"Version\" : {}",
            status.hash, status.revision, status.total_key, status.total_size, status.version
        ),
    }
}

/// A table with a frame, as etcd's tools draw it.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
        cells.chain(head.get(column).map(|head| head.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let parts: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}", parts.join(middle))
    };
    let head: String = head.iter().zip(&widths).map(|(cell, width)| format!("│ {cell:^width$} ")).collect();
    let mut lines = vec![rule("┌", "┬", "┐"), format!("{head}│"), rule("├", "┼", "┤")];
    for row in rows {
        let row: String = row.iter().zip(&widths).map(|(cell, width)| format!("│ {cell:>width$} ")).collect();
        lines.push(format!("{row}│"));
    }
    lines.push(rule("└", "┴", "┘"));
    lines.join("\n")
}

/// `25 kB`, `2.1 MB`: powers of a thousand, one digit behind the point where there is one before it.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let (mut unit, mut scale) = (0, 1u128);
    while u128::from(bytes) >= scale * 1000 && unit + 1 < UNITS.len() {
        (unit, scale) = (unit + 1, scale * 1000);
    }
    // In tenths, rounded half up.
    let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
    let (whole, rest) = (tenths / 10, tenths % 10);
    if tenths < 100 {
        return format!("{whole}.{rest} {}", UNITS[unit]);
    }
    // Go rounds a half to the even neighbour.
    let up = rest > 5 || (rest == 5 && whole % 2 == 1);
    format!("{} {}", whole + u128::from(up), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_spelt_as_etcd_spells_them() {
        let spelt = [(0, "0 B"), (9, "9 B"), (20_480, "20 kB"), (24_576, "25 kB"), (2_109_440, "2.1 MB")];
        for (bytes, text) in spelt {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn a_table_is_framed() {
        let drawn = table(&["A", "LONG"], &[vec!["1234".into(), "2".into()]]);
        let lines =
            ["┌──────┬──────┐", "│  A   │ LONG │", "├──────┼──────┤", "│ 1234 │    2 │", "└──────┴──────┘"];
        assert_eq!(drawn, lines.join("\n"));
    }
}
