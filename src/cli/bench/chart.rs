//! A chart of lines as SVG, for documents: axes with ticks and units, a legend, and a white ground, so that it is read in the dark as well as in the light. No more than the plots
//! of `goals` need, which is less than a library for plots would bring into the daemon's program.

use std::fmt::Write;

const WIDTH: f64 = 930.0;
const HEIGHT: f64 = 460.0;
/// Where the axes are.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 690.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 396.0;
/// A line of the legend.
const LEGEND_STEP: f64 = 22.0;
/// About so many ticks are on a linear axis, and no more than so many on a logarithmic one.
const TICKS: f64 = 6.0;
const LOG_TICKS_MAX: usize = 11;
/// Colours that are told apart with every kind of sight (Okabe and Ito), with a grey.
const COLOURS: [&str; 9] =
    ["#0072b2", "#595959", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#6a3d9a", "#b15928"];
/// Beyond the colours there are dashes.
const DASHES: [&str; 3] = ["", " stroke-dasharray=\"7 4\"", " stroke-dasharray=\"2 3\""];

/// How figures lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From nought on.
    Linear,
    /// Each step is as many times the one before; for figures above nought.
    Log,
}

/// An axis.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// What it shows, with the unit.
    pub(super) label: String,
    pub(super) scale: Scale,
}

/// A line.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    /// Which colour it has; the same in all charts that have it.
    pub(super) look: usize,
    /// In the order of `x`.
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

/// An axis that knows how far it goes, and where on the paper.
struct Ruler {
    scale: Scale,
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Ruler {
    /// `None` where there is nothing that could be shown.
    fn new(scale: Scale, figures: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> Option<Self> {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for figure in figures {
            (least, most) = (least.min(figure), most.max(figure));
        }
        if !least.is_finite() || !most.is_finite() {
            return None;
        }
        let (least, most) = match scale {
            Scale::Linear => (least.min(0.0), (most / step(most)).ceil().max(1.0) * step(most)),
            Scale::Log => {
                let (low, high) = (round_125(least, f64::floor), round_125(most, f64::ceil));
                // One figure alone is no way to go.
                (low, if high > low { high } else { low * 10.0 })
            }
        };
        Some(Self { scale, least, most, from, to })
    }

    /// Where a figure is on the paper.
    fn place(&self, figure: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (figure - self.least) / (self.most - self.least),
            Scale::Log => (figure / self.least).ln() / (self.most / self.least).ln(),
        };
        self.from + part * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.most);
                (0..).map(|number| f64::from(number) * step).take_while(|tick| *tick <= self.most * 1.0001).collect()
            }
            Scale::Log => {
                let fine = self.powers(&[1.0, 2.0, 5.0]);
                if fine.len() <= LOG_TICKS_MAX { fine } else { self.powers(&[1.0]) }
            }
        }
    }

    fn powers(&self, digits: &[f64]) -> Vec<f64> {
        // As many decades as a figure can lie apart here.
        let (first, last) = (self.least.log10().floor(), self.most.log10().ceil());
        let decades =
            std::iter::successors(Some(first), |decade| Some(decade + 1.0)).take_while(|decade| *decade <= last);
        let all = decades.flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powf(decade)));
        all.filter(|tick| *tick >= self.least * 0.9999 && *tick <= self.most * 1.0001).collect()
    }
}

/// From tick to tick: 1, 2 or 5 of a power of ten.
fn step(most: f64) -> f64 {
    if most > 0.0 { round_125(most / TICKS, f64::ceil) } else { 1.0 }
}

/// The next of 1, 2, 5, 10, … on this side.
fn round_125(figure: f64, way: fn(f64) -> f64) -> f64 {
    let figure = figure.max(1e-12);
    let decade = 10f64.powf(figure.log10().floor());
    let digit = figure / decade;
    let down = way(0.5) < 0.5;
    let digits = [1.0, 2.0, 5.0, 10.0];
    let found = if down {
        digits.iter().rev().find(|other| **other <= digit * 1.000_001)
    } else {
        digits.iter().find(|other| **other >= digit * 0.999_999)
    };
    found.copied().unwrap_or(if down { 1.0 } else { 10.0 }) * decade
}

/// A figure at a tick: 0.2, 5, 20k, 1.5M.
fn tick(figure: f64) -> String {
    let (figure, unit) = match figure.abs() {
        size if size >= 1e6 => (figure / 1e6, "M"),
        size if size >= 1e3 => (figure / 1e3, "k"),
        _ => (figure, ""),
    };
    let text = format!("{figure:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Series {
    /// Those points that this chart can show.
    fn shown(&self, chart: &Chart) -> impl Iterator<Item = (f64, f64)> + '_ {
        let fits = |scale: Scale, figure: f64| figure.is_finite() && (scale == Scale::Linear || figure > 0.0);
        let (x, y) = (chart.x.scale, chart.y.scale);
        self.points.iter().copied().filter(move |(at, figure)| fits(x, *at) && fits(y, *figure))
    }
}

impl Chart {
    /// The whole picture; `None` where there is nothing to show.
    pub(super) fn svg(&self) -> Option<String> {
        let all = || self.series.iter().flat_map(|series| series.shown(self));
        let x = Ruler::new(self.x.scale, all().map(|point| point.0), (LEFT, RIGHT))?;
        let y = Ruler::new(self.y.scale, all().map(|point| point.1), (BOTTOM, TOP))?;
        let mut svg = String::with_capacity(8192);
        // Writing into a string cannot fail.
        let _ = self.draw(&mut svg, &x, &y);
        Some(svg)
    }

    fn draw(&self, svg: &mut String, x: &Ruler, y: &Ruler) -> std::fmt::Result {
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#1a1a1a\" role=\"img\">"
        )?;
        let title = escape(&self.title);
        writeln!(svg, "<title>{title}</title>")?;
        writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\" fill=\"#ffffff\"/>")?;
        writeln!(svg, "<text x=\"{LEFT}\" y=\"30\" font-size=\"16\" font-weight=\"600\">{title}</text>")?;
        self.axes(svg, x, y)?;
        // The first one lies on top.
        for series in self.series.iter().rev() {
            self.line(svg, series, x, y)?;
        }
        self.legend(svg)?;
        writeln!(svg, "</svg>")
    }

    fn axes(&self, svg: &mut String, x: &Ruler, y: &Ruler) -> std::fmt::Result {
        for figure in x.ticks() {
            let (at, text) = (x.place(figure), tick(figure));
            writeln!(svg, "<path d=\"M{at:.1} {TOP}V{BOTTOM}\" stroke=\"#e2e2e2\"/>")?;
            writeln!(svg, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", BOTTOM + 19.0)?;
        }
        for figure in y.ticks() {
            let (at, text) = (y.place(figure), tick(figure));
            writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"#e2e2e2\"/>")?;
            writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 8.0, at + 4.5)?;
        }
        writeln!(svg, "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#1a1a1a\"/>")?;
        let (middle, label) = (f64::midpoint(LEFT, RIGHT), escape(&self.x.label));
        writeln!(svg, "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>", BOTTOM + 44.0)?;
        let (middle, label) = (f64::midpoint(TOP, BOTTOM), escape(&self.y.label));
        writeln!(
            svg,
            "<text x=\"24\" y=\"{middle:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 24 {middle:.1})\">{label}</text>"
        )
    }

    fn line(&self, svg: &mut String, series: &Series, x: &Ruler, y: &Ruler) -> std::fmt::Result {
        let places: Vec<(f64, f64)> = series.shown(self).map(|(at, figure)| (x.place(at), y.place(figure))).collect();
        let points: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (colour, dashes) = look(series.look);
        let points = points.join(" ");
        writeln!(svg, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>")?;
        for (x, y) in places {
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\" fill=\"{colour}\"/>")?;
        }
        Ok(())
    }

    fn legend(&self, svg: &mut String) -> std::fmt::Result {
        let mut at = TOP + 8.0;
        for series in &self.series {
            let (colour, dashes) = look(series.look);
            let (from, to, name) = (RIGHT + 20.0, RIGHT + 46.0, escape(&series.name));
            writeln!(svg, "<path d=\"M{from} {at:.1}H{to}\" stroke=\"{colour}\" stroke-width=\"2.5\"{dashes}/>")?;
            writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{name}</text>", to + 8.0, at + 4.5)?;
            at += LEGEND_STEP;
        }
        Ok(())
    }
}

fn look(number: usize) -> (&'static str, &'static str) {
    (COLOURS[number % COLOURS.len()], DASHES[number / COLOURS.len() % DASHES.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(label: &str, scale: Scale) -> Axis {
        Axis { label: label.to_owned(), scale }
    }

    fn chart(scale: Scale, series: &[(&str, &[(f64, f64)])]) -> Chart {
        let series = series.iter().enumerate().map(|(look, (name, points))| Series {
            name: (*name).to_owned(),
            look,
            points: points.to_vec(),
        });
        Chart {
            title: "a <b>".to_owned(),
            x: axis("load, /s", scale),
            y: axis("late, ms", scale),
            series: series.collect(),
        }
    }

    /// What stands in an attribute, of each element of this name.
    fn attributes(svg: &str, element: &str, name: &str) -> Vec<String> {
        let begin = format!("<{element} ");
        let elements = svg.lines().filter(|line| line.starts_with(&begin));
        let value = |line: &str| {
            line.split_once(&format!(" {name}=\"")).map(|(_, rest)| rest.split('"').next().unwrap_or("").to_owned())
        };
        elements.filter_map(value).collect()
    }

    #[test]
    fn ticks_are_1_2_5_and_reach_beyond_the_figures() {
        let linear = Ruler::new(Scale::Linear, [3.0, 4700.0].into_iter(), (0.0, 100.0)).unwrap();
        assert_eq!(linear.ticks(), [0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0]);
        assert!((linear.place(0.0), linear.place(5000.0)) == (0.0, 100.0));
        let log = Ruler::new(Scale::Log, [0.3, 70.0].into_iter(), (0.0, 100.0)).unwrap();
        let ticks: Vec<String> = log.ticks().into_iter().map(tick).collect();
        assert_eq!(ticks, ["0.2", "0.5", "1", "2", "5", "10", "20", "50", "100"]);
        let wide = Ruler::new(Scale::Log, [0.01, 90_000.0].into_iter(), (0.0, 100.0)).unwrap();
        let ticks: Vec<String> = wide.ticks().into_iter().map(tick).collect();
        assert_eq!(ticks, ["0.01", "0.1", "1", "10", "100", "1k", "10k", "100k"]);
    }

    #[test]
    fn figures_at_ticks_are_short() {
        let read = [0.0, 0.05, 0.2, 5.0, 1000.0, 20_000.0, 1_500_000.0].map(tick);
        assert_eq!(read, ["0", "0.05", "0.2", "5", "1k", "20k", "1.5M"]);
    }

    #[test]
    fn steps_are_rounded_to_their_side() {
        for (figure, down, up) in [(1.0, 1.0, 1.0), (3.0, 2.0, 5.0), (70.0, 50.0, 100.0), (0.03, 0.02, 0.05)] {
            assert!((round_125(figure, f64::floor) / down - 1.0).abs() < 1e-9, "{figure} down");
            assert!((round_125(figure, f64::ceil) / up - 1.0).abs() < 1e-9, "{figure} up");
        }
    }

    #[test]
    fn points_lie_within_the_axes_and_higher_figures_higher() {
        for scale in [Scale::Linear, Scale::Log] {
            let svg = chart(scale, &[("one", &[(10.0, 1.0), (100.0, 7.0), (1000.0, 30.0)])]).svg().unwrap();
            let figures = |name| -> Vec<f64> {
                attributes(&svg, "circle", name).iter().map(|text| text.parse().unwrap()).collect()
            };
            let (x, y) = (figures("cx"), figures("cy"));
            assert_eq!(x.len(), 3);
            assert!(x.iter().all(|x| (LEFT..=RIGHT).contains(x)) && y.iter().all(|y| (TOP..=BOTTOM).contains(y)));
            assert!(x.is_sorted() && y.iter().rev().is_sorted(), "{x:?} {y:?}");
        }
    }

    #[test]
    fn a_legend_names_each_line_in_its_colour_and_text_is_escaped() {
        let svg = chart(Scale::Linear, &[("a & b", &[(1.0, 1.0)]), ("c", &[(2.0, 2.0)])]).svg().unwrap();
        assert!(svg.contains("a &amp; b</text>") && svg.contains("<title>a &lt;b&gt;</title>"), "{svg}");
        for colour in &COLOURS[..2] {
            assert!(svg.contains(&format!("stroke=\"{colour}\" stroke-width=\"2\"/>")), "{svg}");
            assert!(svg.contains(&format!("stroke=\"{colour}\" stroke-width=\"2.5\"/>")), "{svg}");
        }
        assert!(svg.contains("load, /s") && svg.contains("late, ms"));
    }

    #[test]
    fn what_an_axis_cannot_show_is_left_out_and_nothing_is_no_picture() {
        let points = [(0.0, 5.0), (10.0, f64::NAN), (10.0, 2.0), (20.0, 3.0)];
        let svg = chart(Scale::Log, &[("one", &points)]).svg().unwrap();
        assert_eq!(attributes(&svg, "circle", "cx").len(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(chart(Scale::Log, &[("one", &[(0.0, 0.0)])]).svg().is_none());
        assert!(chart(Scale::Linear, &[]).svg().is_none());
        // One figure alone, and nought alone.
        for points in [[(5.0, 5.0)], [(0.0, 0.0)]] {
            assert!(!chart(Scale::Linear, &[("one", &points)]).svg().unwrap().contains("NaN"));
        }
    }

    #[test]
    fn more_lines_than_colours_have_dashes() {
        let points: &[(f64, f64)] = &[(1.0, 1.0), (2.0, 2.0)];
        let series: Vec<(&str, &[(f64, f64)])> = vec![("line", points); COLOURS.len() + 1];
        let svg = chart(Scale::Linear, &series).svg().unwrap();
        assert_eq!(svg.matches("stroke-width=\"2\" stroke-dasharray").count(), 1);
    }
}
