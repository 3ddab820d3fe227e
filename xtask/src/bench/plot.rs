//! Draws bars as SVG.

const WIDTH: f64 = 720.0;
const LABELS: f64 = 260.0;
const ROW: f64 = 28.0;

pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) seconds: f64,
    /// Whether it is RAIC's, and not a peer's.
    pub(crate) is_ours: bool,
}

/// Draws a bar for each of `all`, the longest over the whole width.
pub(crate) fn bars(all: &[Bar]) -> String {
    let longest = all
        .iter()
        .map(|bar| bar.seconds)
        .fold(f64::MIN_POSITIVE, f64::max);
    let height = ROW * all.len() as f64 + 12.0;
    let mut drawn = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (row, bar) in all.iter().enumerate() {
        let y = 6.0 + ROW * row as f64;
        let width = (bar.seconds / longest * (WIDTH - LABELS - 80.0)).max(1.0);
        let colour = if bar.is_ours { "#2f6f8f" } else { "#b8b8b8" };
        let (middle, end) = (y + 18.0, LABELS + width + 6.0);
        drawn.push_str(&format!(
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{}\" width=\"{width:.1}\" height=\"20\" fill=\"{colour}\"/>\
             <text x=\"{end:.1}\" y=\"{middle}\">{}</text>\n",
            LABELS - 8.0,
            bar.label,
            y + 4.0,
            time(bar.seconds),
        ));
    }
    drawn + "</svg>\n"
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.1} ms", s * 1000.0),
        s => format!("{s:.2} s"),
    }
}
