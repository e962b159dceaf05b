//! The line that a person types: keys in, terminal output out.
//!
//! The libraries for it do not fit a line whose call may end at any time: rustyline-async drops a half-typed line at
//! Ctrl-D; rustyline cannot be stopped while it reads, and its printer loses lines.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

const PROMPT: &str = "> ";

/// Removes everything from the cursor to the end of the screen.
const CLEAR_BELOW: &str = "\x1b[J";

const CLEAR_SCREEN: &str = "\x1b[2J\x1b[H";

/// What a key has completed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A line that is not empty.
    Line(String),
    /// No further line.
    End,
    Interrupt,
}

/// A line with a prompt, and the lines before it.
pub(super) struct LineEditor {
    line: String,
    /// Where the next character is inserted, in bytes.
    cursor: usize,
    history: Vec<String>,
    /// The line of `history` that is shown. Its length: the one that is being typed.
    recalled: usize,
    /// What is being typed, while a line of `history` is shown.
    draft: String,
    columns: usize,
    /// The rows between the first of the prompt and the terminal's cursor.
    row: usize,
}

/// A place on the terminal, from the beginning of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    row: usize,
    column: usize,
}

impl LineEditor {
    pub(super) fn new(columns: u16) -> Self {
        Self {
            line: String::new(),
            cursor: 0,
            history: Vec::new(),
            recalled: 0,
            draft: String::new(),
            columns: usize::from(columns).max(1),
            row: 0,
        }
    }

    /// Handles a key, or a new size. Returns what it has completed, and the output for the terminal.
    pub(super) fn handle(&mut self, event: &Event) -> (Option<Input>, String) {
        match event {
            Event::Resize(columns, _) => {
                self.columns = usize::from(*columns).max(1);
                // Terminals have wrapped the line anew.
                self.row = self.place(self.cursor).row;
            }
            Event::Key(key) if key.kind != KeyEventKind::Release => return self.press(key),
            _ => return (None, String::new()),
        }
        (None, self.redraw())
    }

    fn press(&mut self, key: &KeyEvent) -> (Option<Input>, String) {
        use KeyCode::{Backspace, Char, Delete, Down, End, Enter, Home, Left, Right, Up};

        let has_control = key.modifiers == KeyModifiers::CONTROL;
        match key.code {
            // What was typed before the program took over the keys has line feeds.
            Enter => return self.submit(),
            Char('j' | 'm') if has_control => return self.submit(),
            Char('c') if has_control => {
                let end = self.move_to_end();
                self.row = 0;
                return (Some(Input::Interrupt), end + "^C\r\n");
            }
            Char('d') if has_control && self.line.is_empty() => {
                return (Some(Input::End), self.erase());
            }
            Char('l') if has_control => {
                self.row = 0;
                return (None, CLEAR_SCREEN.to_owned() + &self.draw());
            }
            Left if has_control => self.cursor = self.word_start(),
            Right if has_control => self.cursor = self.word_end(),
            Left => self.cursor = self.before(),
            Right => self.cursor = self.after(),
            Home => self.cursor = 0,
            End => self.cursor = self.line.len(),
            Up => self.recall(self.recalled.checked_sub(1)),
            Down => self.recall(Some(self.recalled + 1)),
            Backspace => self.remove(self.before(), self.cursor),
            Delete => self.remove(self.cursor, self.after()),
            Char(letter) if has_control => match letter {
                'a' => self.cursor = 0,
                'b' => self.cursor = self.before(),
                'd' => self.remove(self.cursor, self.after()),
                'e' => self.cursor = self.line.len(),
                'f' => self.cursor = self.after(),
                'h' => self.remove(self.before(), self.cursor),
                'k' => self.remove(self.cursor, self.line.len()),
                'n' => self.recall(Some(self.recalled + 1)),
                'p' => self.recall(self.recalled.checked_sub(1)),
                'u' => self.remove(0, self.cursor),
                'w' => self.remove(self.word_start(), self.cursor),
                _ => {}
            },
            Char(letter) if !letter.is_control() => {
                self.line.insert(self.cursor, letter);
                self.cursor += letter.len_utf8();
            }
            _ => {}
        }
        (None, self.redraw())
    }

    /// Ends the line. An empty one has no effect.
    fn submit(&mut self) -> (Option<Input>, String) {
        let end = self.move_to_end();
        self.row = 0;
        self.cursor = 0;
        let line = std::mem::take(&mut self.line);
        self.draft.clear();
        if !line.is_empty() && self.history.last() != Some(&line) {
            self.history.push(line.clone());
        }
        self.recalled = self.history.len();
        let input = (!line.is_empty()).then_some(Input::Line(line));
        (input, end + "\r\n" + &self.draw())
    }

    /// Shows a line of the history, or the one that is being typed behind its last.
    fn recall(&mut self, number: Option<usize>) {
        let Some(number) = number.filter(|number| *number <= self.history.len()) else {
            return;
        };
        if self.recalled == self.history.len() {
            self.draft = std::mem::take(&mut self.line);
        }
        self.recalled = number;
        self.line = self.history.get(number).unwrap_or(&self.draft).clone();
        self.cursor = self.line.len();
    }

    fn remove(&mut self, start: usize, end: usize) {
        self.line.drain(start..end);
        self.cursor = start;
    }

    fn before(&self) -> usize {
        let mut graphemes = self.line[..self.cursor].grapheme_indices(true);
        graphemes.next_back().map_or(0, |(start, _)| start)
    }

    fn after(&self) -> usize {
        let next = self.line[self.cursor..].graphemes(true).next();
        self.cursor + next.map_or(0, str::len)
    }

    fn word_start(&self) -> usize {
        let before = self.line[..self.cursor].trim_end();
        let space = before.rfind(char::is_whitespace);
        // The width of the space in bytes.
        space.map_or(0, |space| {
            space + before[space..].chars().next().map_or(0, char::len_utf8)
        })
    }

    fn word_end(&self) -> usize {
        let rest = &self.line[self.cursor..];
        let word = rest.len() - rest.trim_start().len();
        let end = rest[word..].find(char::is_whitespace);
        self.cursor + end.map_or(rest.len(), |end| word + end)
    }

    fn redraw(&mut self) -> String {
        self.erase() + &self.draw()
    }

    /// The output that removes prompt and line.
    pub(super) fn erase(&mut self) -> String {
        let erased = format!("{}{CLEAR_BELOW}", up(self.row));
        self.row = 0;
        erased
    }

    /// The output that draws prompt and line below what is there.
    pub(super) fn draw(&mut self) -> String {
        let (end, cursor) = (self.place(self.line.len()), self.place(self.cursor));
        self.row = cursor.row;
        let wrap = match end.row > 0 && end.column == 0 {
            // A terminal moves to the next row only with the next character.
            true => " ",
            false => "",
        };
        let right = match cursor.column {
            0 => String::new(),
            columns => format!("\x1b[{columns}C"),
        };
        let back = up(end.row - cursor.row);
        format!("{PROMPT}{}{wrap}{back}{right}", self.line)
    }

    /// The output that moves the terminal's cursor behind the line.
    fn move_to_end(&mut self) -> String {
        self.cursor = self.line.len();
        self.redraw()
    }

    /// Where the line's byte at `index` is.
    fn place(&self, index: usize) -> Place {
        let mut place = Place { row: 0, column: 0 };
        for grapheme in PROMPT
            .graphemes(true)
            .chain(self.line[..index].graphemes(true))
        {
            let width = grapheme.width();
            // A wide character that does not fit begins the next row.
            if place.column + width > self.columns {
                place = Place {
                    row: place.row + 1,
                    column: 0,
                };
            }
            place.column += width;
            if place.column >= self.columns {
                place = Place {
                    row: place.row + 1,
                    column: 0,
                };
            }
        }
        place
    }
}

/// The output that moves to the first column, some rows up.
fn up(rows: usize) -> String {
    match rows {
        0 => "\r".to_owned(),
        rows => format!("\r\x1b[{rows}A"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn editor() -> LineEditor {
        LineEditor::new(10)
    }

    fn press(editor: &mut LineEditor, code: KeyCode, modifiers: KeyModifiers) -> Option<Input> {
        editor.handle(&Event::Key(KeyEvent::new(code, modifiers))).0
    }

    /// Types keys: `^a` is Ctrl-A, `<` and `>` are the arrows, `|` is Enter.
    fn type_keys(editor: &mut LineEditor, keys: &str) -> Vec<Input> {
        let mut keys = keys.chars();
        let mut inputs = Vec::new();
        while let Some(key) = keys.next() {
            let none = KeyModifiers::NONE;
            inputs.extend(match key {
                '^' => {
                    let letter = KeyCode::Char(keys.next().unwrap());
                    press(editor, letter, KeyModifiers::CONTROL)
                }
                '<' => press(editor, KeyCode::Left, none),
                '>' => press(editor, KeyCode::Right, none),
                '|' => press(editor, KeyCode::Enter, none),
                key => press(editor, KeyCode::Char(key), none),
            });
        }
        inputs
    }

    fn line(text: &str) -> Input {
        Input::Line(text.to_owned())
    }

    #[test]
    fn keys_edit_the_line() {
        for (keys, expected) in [
            ("Grace|", "Grace"),
            ("Gace<<<r|", "Grace"),
            ("race^aG|", "Grace"),
            ("xGrace^a^d|", "Grace"),
            ("Gracex^h|", "Grace"),
            ("Ada Grace^w^wGrace|", "Grace"),
            ("Ada^uGrace|", "Grace"),
            ("Gracexx<<^k|", "Grace"),
            ("名x前<<^h名|", "名x前"),
            ("e\u{301}x<<^d|", "x"),
        ] {
            assert_eq!(type_keys(&mut editor(), keys), [line(expected)], "{keys}");
        }
    }

    #[test]
    fn line_feed_ends_a_line() {
        let inputs = type_keys(&mut editor(), "Ada^jGrace^j");
        assert_eq!(inputs, [line("Ada"), line("Grace")]);
    }

    #[test]
    fn empty_line_is_no_input() {
        assert_eq!(type_keys(&mut editor(), "||"), []);
    }

    #[test]
    fn ctrl_d_ends_the_input_of_an_empty_line_only() {
        assert_eq!(type_keys(&mut editor(), "^d"), [Input::End]);
        let inputs = type_keys(&mut editor(), "half^d|^d");
        assert_eq!(inputs, [line("half"), Input::End]);
    }

    #[test]
    fn ctrl_c_leaves_a_line_of_its_own() {
        let mut editor = editor();
        type_keys(&mut editor, "half");
        let event = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        let (input, output) = editor.handle(&Event::Key(event));
        assert_eq!(input, Some(Input::Interrupt));
        assert!(output.ends_with("half\r\x1b[6C^C\r\n"), "{output:?}");
    }

    #[test]
    fn history_is_recalled_and_the_draft_kept() {
        let mut editor = editor();
        type_keys(&mut editor, "Ada|Grace|half");
        assert_eq!(type_keys(&mut editor, "^p^p^p|"), [line("Ada")]);
        type_keys(&mut editor, "half^p^n");
        assert_eq!(type_keys(&mut editor, "^n|"), [line("half")]);
    }

    #[test]
    fn line_wraps_at_the_width_of_the_terminal() {
        let mut editor = editor();
        type_keys(&mut editor, "1234567");
        assert_eq!(editor.place(7), Place { row: 0, column: 9 });
        type_keys(&mut editor, "8");
        assert_eq!(editor.place(8), Place { row: 1, column: 0 });
        assert_eq!(editor.draw(), "> 12345678 \r");
        assert_eq!(editor.erase(), "\r\x1b[1A\x1b[J");
        type_keys(&mut editor, "^h名");
        assert_eq!(editor.place(editor.line.len()), Place { row: 1, column: 2 });
    }

    #[test]
    fn resize_wraps_the_line_anew() {
        let mut editor = editor();
        type_keys(&mut editor, "123456789");
        assert_eq!(editor.row, 1);
        let (_, output) = editor.handle(&Event::Resize(80, 24));
        assert_eq!(output, "\r\x1b[J> 123456789\r\x1b[11C");
    }
}
