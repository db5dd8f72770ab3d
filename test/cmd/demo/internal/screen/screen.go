package screen

import (
	"bufio"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	// The terminal's other page, so that what was there before comes back.
	enter = "\x1b[?1049h\x1b[?25l"
	leave = "\x1b[?25h\x1b[?1049l"
	// Every line is written over; what is left of the last time is erased.
	home      = "\x1b[H"
	eraseLine = "\x1b[K"
	eraseRest = "\x1b[J"

	usualWidth = 100
)

// Screen is where scenes are shown.
type Screen struct {
	out *os.File
	// live is a terminal, which is drawn on in place.
	live bool
}

// New makes a screen of a terminal, or of anything else that can be written to.
func New(out *os.File) *Screen {
	s := &Screen{out: out}
	_, _, s.live = s.size()
	return s
}

// Every is how often it wants to be shown something.
func (s *Screen) Every() time.Duration {
	if s.live {
		return 200 * time.Millisecond
	}
	return 5 * time.Second
}

// Width is how many columns there are.
func (s *Screen) Width() int {
	width, _, _ := s.size()
	return width
}

// size gives what a terminal has, 0 for what it does not say.
func (s *Screen) size() (width, height int, terminal bool) {
	ws, err := unix.IoctlGetWinsize(int(s.out.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return usualWidth, 0, false
	}
	if ws.Col == 0 {
		return usualWidth, 0, true
	}
	return int(ws.Col), int(ws.Row), true
}

// Open takes the terminal. Close must follow.
func (s *Screen) Open() error {
	if !s.live {
		return nil
	}
	_, err := io.WriteString(s.out, enter)
	return err
}

// Close gives it back.
func (s *Screen) Close() error {
	if !s.live {
		return nil
	}
	_, err := io.WriteString(s.out, leave)
	return err
}

// Show shows lines in the place of those before, or behind them where that
// cannot be.
func (s *Screen) Show(lines []string) error {
	if !s.live {
		return s.Print(append(lines, ""))
	}
	width, height, _ := s.size()
	return writeOver(s.out, lines, width, height)
}

// Print writes lines that stay.
func (s *Screen) Print(lines []string) error {
	_, err := io.WriteString(s.out, strings.Join(lines, "\n")+"\n")
	return err
}

// writeOver writes what there is room for. A height of 0 is any.
func writeOver(out io.Writer, lines []string, width, height int) error {
	if height > 0 {
		lines = lines[:min(len(lines), height)]
	}
	w := bufio.NewWriter(out)
	_, _ = w.WriteString(home) // what fails is said by Flush
	for i, line := range lines {
		if utf8.RuneCountInString(line) > width {
			line = string([]rune(line)[:width])
		}
		if i > 0 {
			_, _ = w.WriteString("\r\n")
		}
		_, _ = w.WriteString(line + eraseLine)
	}
	_, _ = w.WriteString(eraseRest)
	return w.Flush()
}
