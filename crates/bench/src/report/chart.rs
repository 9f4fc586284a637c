//! One plot as SVG: lines over a linear or logarithmic axis, with marks. Its
//! colours are classes, which the page gives a light and a dark meaning.

use std::fmt::Write;

use super::escape::escape;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 86.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 46.0;
/// A zero has no place on a logarithmic axis; it is drawn at the axis' end.
const LOG_MIN: f64 = 1e-3;
/// Lines with more points than this are drawn thin, or they become blots.
const THICK_POINTS_MAX: usize = 300;
/// Labels of marks closer than this would run into each other.
const MARK_LABEL_GAP: f64 = 18.0;

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// A line with the area below it.
    Area,
    Line,
    /// Level until the next point, as of a distribution.
    Step,
    /// One of many like it, behind the line that sums them up.
    Faint,
}

/// One line. Where there is no y, it is interrupted.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// What the legend calls it; nothing keeps it out of the legend.
    pub(super) name: &'static str,
    /// Which of the page's series colours, from 1.
    pub(super) colour: u8,
    pub(super) style: Style,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A moment worth a vertical line.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) x: f64,
    pub(super) label: String,
    /// What a pointer resting on it is told.
    pub(super) hint: String,
}

/// One plot.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// With their units.
    pub(super) x_label: &'static str,
    pub(super) y_label: &'static str,
    pub(super) logarithmic: bool,
    /// Where the y axis ends; else where the data does.
    pub(super) y_max: Option<f64>,
    pub(super) series: Vec<Series>,
    pub(super) marks: Vec<Mark>,
}

struct Scale {
    x: (f64, f64),
    y: (f64, f64),
    logarithmic: bool,
}

impl Scale {
    fn x(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, y: f64) -> f64 {
        let share = if self.logarithmic {
            let log = |value: f64| value.max(LOG_MIN).log10();
            (log(y) - log(self.y.0)) / (log(self.y.1) - log(self.y.0))
        } else {
            (y - self.y.0) / (self.y.1 - self.y.0)
        };
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

impl Chart {
    pub(super) fn svg(&self) -> String {
        let scale = self.scale();
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            escape(self.title)
        );
        self.draw_axes(&scale, &mut svg);
        for series in &self.series {
            draw_series(series, &scale, &mut svg);
        }
        self.draw_marks(&scale, &mut svg);
        self.draw_legend(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    fn scale(&self) -> Scale {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let values = || points().filter_map(|point| point.1);
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| {
                (min.min(value), max.max(value))
            })
        };
        let mut x = range(&mut points().map(|point| point.0));
        let mut y = range(&mut values());
        if x.0 >= x.1 || !x.0.is_finite() {
            x = (x.0.min(0.0), x.0.max(0.0) + 1.0);
            if !x.0.is_finite() || !x.1.is_finite() {
                x = (0.0, 1.0);
            }
        }
        if !y.0.is_finite() {
            y = (0.0, 1.0);
        }
        let y = if self.logarithmic {
            let low = 10f64.powf(y.0.max(LOG_MIN).log10().floor());
            (low, 10f64.powf(y.1.max(LOG_MIN).log10().ceil()).max(low * 10.0))
        } else {
            let max = self.y_max.unwrap_or(y.1 * 1.05);
            (0.0, if max > 0.0 { max } else { 1.0 })
        };
        Scale { x, y, logarithmic: self.logarithmic }
    }

    fn draw_axes(&self, scale: &Scale, svg: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let y_ticks = if self.logarithmic { decades(scale.y) } else { linear_ticks(scale.y, 5.0) };
        for tick in y_ticks {
            let y = scale.y(tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                number(tick)
            );
        }
        for tick in linear_ticks(scale.x, 10.0) {
            let x = scale.x(tick);
            let _ = writeln!(
                svg,
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 5.0,
                bottom + 19.0,
                number(tick)
            );
        }
        let middle = (TOP + bottom) / 2.0;
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\
             <text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"label\" transform=\"translate(16 {middle:.1}) rotate(-90)\" \
             text-anchor=\"middle\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 8.0,
            escape(self.x_label),
            escape(self.y_label)
        );
    }

    fn draw_marks(&self, scale: &Scale, svg: &mut String) {
        let mut labelled_until = f64::NEG_INFINITY;
        for mark in &self.marks {
            let x = scale.x(mark.x);
            let _ = write!(
                svg,
                "<g class=\"mark\"><title>{}</title>\
                 <line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>",
                escape(&mark.hint),
                HEIGHT - BOTTOM
            );
            if x - labelled_until >= MARK_LABEL_GAP {
                labelled_until = x;
                let y = TOP - 5.0;
                let label = escape(&mark.label);
                let _ = write!(
                    svg,
                    "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>"
                );
            }
            svg.push_str("</g>\n");
        }
    }

    fn draw_legend(&self, svg: &mut String) {
        let named = self.series.iter().filter(|series| !series.name.is_empty());
        let named: Vec<&Series> = named.collect();
        if named.len() < 2 {
            return;
        }
        let mut x = LEFT;
        for series in named {
            let colour = series.colour;
            let _ = writeln!(
                svg,
                "<line class=\"line c{colour}\" x1=\"{x}\" x2=\"{:.1}\" y1=\"12\" y2=\"12\"/>\
                 <text class=\"label\" x=\"{:.1}\" y=\"16\">{}</text>",
                x + 18.0,
                x + 24.0,
                escape(series.name)
            );
            x += 48.0 + 6.8 * series.name.chars().count() as f64;
        }
    }
}

fn draw_series(series: &Series, scale: &Scale, svg: &mut String) {
    let colour = series.colour;
    let class = match series.style {
        Style::Faint => "faint",
        _ if series.points.len() > THICK_POINTS_MAX => "line thin",
        _ => "line",
    };
    for run in series.points.split(|point| point.1.is_none()) {
        let mut path = String::new();
        let mut last_y = None;
        for (x, y) in run.iter().filter_map(|(x, y)| Some((*x, (*y)?))) {
            let (x, y) = (scale.x(x), scale.y(y));
            let command = if path.is_empty() { 'M' } else { 'L' };
            if let (Style::Step, Some(last_y)) = (series.style, last_y) {
                let _ = write!(path, "L{x:.1} {last_y:.1}");
            }
            let _ = write!(path, "{command}{x:.1} {y:.1}");
            last_y = Some(y);
        }
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            continue;
        };
        if run.len() == 1 {
            // A lone point would have no length.
            path.push_str("h1.5");
        }
        if series.style == Style::Area {
            let (first, last, bottom) = (scale.x(first.0), scale.x(last.0), HEIGHT - BOTTOM);
            let _ = writeln!(
                svg,
                "<path class=\"area c{colour}\" d=\"{path}L{last:.1} {bottom}L{first:.1} {bottom}Z\"/>"
            );
        }
        let _ = writeln!(svg, "<path class=\"{class} c{colour}\" d=\"{path}\"/>");
    }
}

/// Round numbers in a range, about as many as asked for.
fn linear_ticks((low, high): (f64, f64), about: f64) -> Vec<f64> {
    let rough = (high - low) / about;
    let magnitude = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| rough <= factor * magnitude);
    let step = factor.unwrap_or(10.0) * magnitude;
    let mut ticks = Vec::new();
    let mut number = (low / step).ceil();
    // The bound is for ranges in which adding a step changes nothing.
    while number * step <= high && ticks.len() < 100 {
        ticks.push(number * step);
        number += 1.0;
    }
    ticks
}

fn decades((low, high): (f64, f64)) -> Vec<f64> {
    let mut ticks = vec![low];
    while let Some(next) = ticks.last().map(|last| last * 10.0).filter(|next| *next < high * 1.01) {
        ticks.push(next);
    }
    ticks
}

/// A tick's number, without digits that say nothing.
fn number(value: f64) -> String {
    if value.abs() >= 1000.0 {
        let sign = if value < 0.0 { "\u{2212}" } else { "" };
        return format!("{sign}{}", crate::table::whole(value.abs()));
    }
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.replace('-', "\u{2212}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, Option<f64>)>, logarithmic: bool) -> Chart {
        let line = |style, colour| Series { name: "a < b", colour, style, points: points.clone() };
        Chart {
            title: "Title & more",
            x_label: "time (s)",
            y_label: "latency (ms)",
            logarithmic,
            y_max: None,
            series: vec![
                line(Style::Area, 1),
                line(Style::Step, 2),
                line(Style::Faint, 3),
                line(Style::Line, 1),
            ],
            marks: vec![Mark { x: 1.0, label: "1".into(), hint: "\"kill\" <1>".into() }],
        }
    }

    /// Tags are closed in order, attributes quoted, and no number is broken.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        for piece in svg.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("every tag ends");
            assert!(!text.contains('>'), "unescaped text in {piece}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closing tags match");
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().unwrap());
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        }
        assert!(open.is_empty(), "left open: {open:?}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn any_points_give_a_well_formed_picture() {
        let sets: [Vec<(f64, Option<f64>)>; 6] = [
            vec![],
            vec![(0.0, None)],
            vec![(5.0, Some(3.0))],
            vec![(0.0, Some(0.0)), (1.0, Some(0.0))],
            vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(1e9)), (3.0, Some(1e-9))],
            vec![(-5.0, Some(2.0)), (5.0, Some(2.0))],
        ];
        for points in sets {
            for logarithmic in [false, true] {
                assert_well_formed(&chart(points.clone(), logarithmic).svg());
            }
        }
    }

    #[test]
    fn ticks_are_round_and_within_the_range() {
        assert_eq!(linear_ticks((0.0, 10.0), 5.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(linear_ticks((-1.0, 2.0), 3.0), [-1.0, 0.0, 1.0, 2.0]);
        assert_eq!(decades((0.1, 100.0)).len(), 4);
        assert_eq!(number(25_000.0), "25,000");
        assert_eq!(
            (number(0.1), number(-0.0), number(-50.0)),
            ("0.1".into(), "0".into(), "\u{2212}50".into())
        );
    }

    #[test]
    fn a_line_is_interrupted_where_there_is_nothing() {
        let points = vec![(0.0, Some(1.0)), (1.0, Some(1.0)), (2.0, None), (3.0, Some(1.0))];
        let chart = Chart {
            series: vec![Series { name: "", colour: 1, style: Style::Line, points }],
            ..chart(vec![], false)
        };
        assert_eq!(chart.svg().matches("<path").count(), 2);
    }
}
