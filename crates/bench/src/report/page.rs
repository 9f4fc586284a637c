//! What all pages share: the frame, the style, tiles, figures and tables.

use super::chart::Chart;
use super::escape::escape;

const STYLE: &str = include_str!("page.css");

/// A page that grows from top to bottom.
#[derive(Debug)]
pub(super) struct Page {
    html: String,
}

impl Page {
    pub(super) fn new(title: &str, subtitle: &str) -> Self {
        let (title, subtitle) = (escape(title), escape(subtitle));
        Self {
            html: format!(
                "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
                 <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
                 <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
                 <main>\n<h1>{title}</h1>\n<p class=\"subtitle\">{subtitle}</p>\n"
            ),
        }
    }

    /// A line that says at once whether all is well.
    pub(super) fn verdict(&mut self, good: bool, text: &str) {
        let (class, word) = if good { ("good", "\u{2713}") } else { ("bad", "\u{2717}") };
        self.html.push_str(&format!(
            "<p class=\"verdict {class}\"><span aria-hidden=\"true\">{word}</span> {}</p>\n",
            escape(text)
        ));
    }

    /// The numbers that matter most: each a name, a figure and a remark.
    pub(super) fn tiles(&mut self, tiles: &[(&str, String, String)]) {
        self.html.push_str("<div class=\"tiles\">\n");
        for (name, figure, remark) in tiles {
            self.html.push_str(&format!(
                "<div class=\"tile\"><div class=\"name\">{}</div><div class=\"figure\">{}</div>\
                 <div class=\"remark\">{}</div></div>\n",
                escape(name),
                escape(figure),
                escape(remark)
            ));
        }
        self.html.push_str("</div>\n");
    }

    pub(super) fn chart(&mut self, chart: &Chart, caption: &str) {
        self.html.push_str(&format!(
            "<figure>\n<h2>{}</h2>\n<div class=\"plot\">{}</div>\n<figcaption>{}</figcaption>\n\
             </figure>\n",
            escape(chart.title),
            chart.svg(),
            escape(caption)
        ));
    }

    pub(super) fn table(&mut self, title: &str, heading: &[&str], rows: &[Vec<String>]) {
        let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect::<String>()
        };
        let heading = cells("th", &mut heading.iter().copied());
        self.html.push_str(&format!(
            "<section>\n<h2>{}</h2>\n<div class=\"plot\"><table>\n<thead><tr>{heading}</tr></thead>\n<tbody>\n",
            escape(title)
        ));
        for row in rows {
            let row = cells("td", &mut row.iter().map(String::as_str));
            self.html.push_str(&format!("<tr>{row}</tr>\n"));
        }
        self.html.push_str("</tbody>\n</table></div>\n</section>\n");
    }

    pub(super) fn finish(mut self) -> String {
        self.html.push_str(
            "<footer>The numbers behind this page are in results.json beside it.</footer>\n\
             </main>\n</body>\n</html>\n",
        );
        self.html
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_can_become_markup() {
        let mut page = Page::new("<b>", "a & b");
        page.verdict(false, "<i>");
        page.tiles(&[("<u>", "<s>".into(), "'\"".into())]);
        page.table("t", &["<th>"], &[vec!["<td x>".into()]]);
        let html = page.finish();
        for markup in ["<b>", "<i>", "<u>", "<s>", "<td x>", "<th><th>"] {
            assert!(!html.contains(markup), "{markup}");
        }
        assert!(html.contains("&lt;td x&gt;"));
    }
}
