package report

import (
	"fmt"
	"image/color"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// drawn are the scenarios whose curves are drawn.
func drawn() []string {
	return []string{"20x40", "40x20", "1000-50MB", "1000-200MB", "unreachable-30", "crash-30"}
}

const (
	tileColumns = 2
	tileWidth   = 9 * vg.Centimeter
	tileHeight  = 6 * vg.Centimeter
	padding     = 4 * vg.Millimeter
	barWidth    = 2 * vg.Millimeter
	mostRatio   = 8 // bars are cut off there
	legendSpace = 8 * vg.Millimeter
	legendWidth = 25 * vg.Millimeter // of each entry
)

// Plots writes completion.png, rate.png and last.png.
func Plots(dir string, rows []Row) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of the plots: %w", err)
	}
	err := tiles(filepath.Join(dir, "completion.png"), rows, "time / bound", "share of the peers", func(r *Row) plotter.XYs {
		points := make(plotter.XYs, len(r.Done))
		for i, x := range r.Done {
			points[i] = plotter.XY{X: x, Y: float64(i) / hundredths}
		}
		return points
	})
	if err != nil {
		return err
	}
	err = tiles(filepath.Join(dir, "rate.png"), rows, "seconds", "MB/s in whole pieces", func(r *Row) plotter.XYs {
		points := make(plotter.XYs, len(r.Rate))
		for i, y := range r.Rate {
			points[i] = plotter.XY{X: (float64(i) + 0.5) * r.Bin, Y: y}
		}
		return points
	})
	if err != nil {
		return err
	}
	return bars(filepath.Join(dir, "last.png"), rows)
}

// tiles draws a plot for each scenario, with a line for each policy.
func tiles(path string, rows []Row, x, y string, curve func(*Row) plotter.XYs) error {
	var plots []*plot.Plot
	for _, name := range drawn() {
		p := plot.New()
		p.X.Label.Text, p.Y.Label.Text = x, y
		for i, policy := range policies(rows) {
			r := find(rows, name, policy)
			if r == nil || len(r.Done) == 0 {
				continue
			}
			p.Title.Text = r.Scenario
			line, err := plotter.NewLine(curve(r))
			if err != nil {
				return fmt.Errorf("drawing %s: %w", name, err)
			}
			line.Color = plotutil.Color(i)
			line.Width = vg.Points(1.5)
			p.Add(line)
		}
		p.X.Min, p.Y.Min = 0, 0
		p.Add(plotter.NewGrid())
		plots = append(plots, p)
	}
	lines := (len(plots) + tileColumns - 1) / tileColumns
	image := vgimg.New(tileColumns*tileWidth, vg.Length(lines)*tileHeight+legendSpace)
	canvas := legend(draw.New(image), policies(rows))
	grid := draw.Tiles{Rows: lines, Cols: tileColumns, PadX: padding, PadY: padding, PadTop: padding, PadBottom: padding,
		PadLeft: padding, PadRight: padding}
	for i, p := range plots {
		p.Draw(grid.At(canvas, i%tileColumns, i/tileColumns))
	}
	return save(path, image)
}

// bars draws the last peer's time in every scenario.
func bars(path string, rows []Row) error {
	names := order(rows, func(r Row) string { return r.Scenario })
	list := policies(rows)
	p := plot.New()
	p.Title.Text = "time of the last peer / bound (bars end at 8; without a bar: not simulated)"
	for i, policy := range list {
		values := make(plotter.Values, len(names))
		for j, name := range names {
			if r := find(rows, name, policy); r != nil {
				values[j] = min(r.Last, mostRatio)
				if r.Left > 0 {
					values[j] = mostRatio
				}
			}
		}
		chart, err := plotter.NewBarChart(values, barWidth)
		if err != nil {
			return fmt.Errorf("drawing bars: %w", err)
		}
		chart.Color = plotutil.Color(i)
		chart.LineStyle.Width = 0
		chart.Offset = (vg.Length(i) - vg.Length(len(list)-1)/2) * barWidth
		p.Add(chart)
	}
	p.Y.Min = 0
	p.Y.Label.Text = "last peer / bound"
	p.Add(horizontal())
	p.NominalX(names...)
	p.X.Tick.Label.Rotation = 0.9
	p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = draw.XRight, draw.YCenter
	image := vgimg.New(26*vg.Centimeter, 12*vg.Centimeter)
	p.Draw(draw.Crop(legend(draw.New(image), list), padding, -padding, padding, -padding))
	return save(path, image)
}

// horizontal returns a grid of horizontal lines.
func horizontal() *plotter.Grid {
	grid := plotter.NewGrid()
	grid.Vertical.Color = nil
	return grid
}

// swatch is the mark of a policy in the legend.
type swatch struct{ color color.Color }

// Thumbnail draws it.
func (s swatch) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(s.color, []vg.Point{
		{X: c.Min.X, Y: c.Min.Y}, {X: c.Min.X, Y: c.Max.Y}, {X: c.Max.X, Y: c.Max.Y}, {X: c.Max.X, Y: c.Min.Y},
	})
}

// legend draws a mark for each policy in a line at the top, and returns what is
// left of the canvas.
func legend(canvas draw.Canvas, policies []string) draw.Canvas {
	for i, policy := range policies {
		entry := plot.NewLegend()
		entry.Top, entry.Left = true, true
		entry.Add(heading(policy), swatch{plotutil.Color(i)})
		left := padding + vg.Length(i)*legendWidth
		entry.Draw(draw.Crop(canvas, left, 0, 0, -padding/2))
	}
	return draw.Crop(canvas, 0, 0, 0, -legendSpace)
}

func save(path string, image *vgimg.Canvas) error {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("creating a plot: %w", err)
	}
	defer file.Close() //nolint:errcheck // closed below when all went well
	if _, err := (vgimg.PngCanvas{Canvas: image}).WriteTo(file); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
