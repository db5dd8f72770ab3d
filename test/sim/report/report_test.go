package report

import (
	"bytes"
	"context"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/scheduler/sim"
	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
	"github.com/supernode-ha/supernode/services/scheduler/sim/scenario"
)

func rows(t *testing.T) []Row {
	t.Helper()
	s, found := scenario.Find("20x40")
	require.True(t, found)
	s = s.Small(5, 10*scenario.MB)
	var list []Row
	for _, name := range policy.Names() {
		p, err := policy.New(name, policy.Options{})
		require.NoError(t, err)
		r, err := sim.Run(context.Background(), s, p, sim.Defaults())
		require.NoError(t, err)
		list = append(list, Sum(s, []*sim.Result{r}))
	}
	return list
}

func TestSavedRowsAreLoadedAsTheyWere(t *testing.T) {
	want := rows(t)
	path := filepath.Join(t.TempDir(), "rows.json")
	require.NoError(t, Save(path, want))
	got, err := Load(path)
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

func TestTablesReplaceWhatIsBetweenTheirMarksOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	text := "before\n<!-- results -->\nold\n<!-- end of results -->\nbetween\n<!-- work -->\n<!-- end of work -->\n" +
		"<!-- queues -->\n<!-- end of queues -->\n<!-- bench -->\n<!-- end of bench -->\nafter\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	list := rows(t)
	document := Document{Rows: list, Queues: list, Benched: list, Measured: map[string]Measured{
		"20x40": {Scenario: "20x40", Parameters: "HOSTS=20 RATE=40", Last: 1.4, Copies: 1.1},
	}}
	require.NoError(t, Write(path, document))
	first, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, kept := range []string{"before\n", "between\n", "after\n", " policy |", "| v1 |", "`20x40`", "`HOSTS=20 RATE=40` | 1.40, 1.10 |"} {
		assert.Contains(t, string(first), kept)
	}
	assert.NotContains(t, string(first), "old")
	require.NoError(t, Write(path, document))
	second, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(first), string(second))
}

func TestADocumentWithoutMarksIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	require.NoError(t, os.WriteFile(path, []byte("text\n"), 0o644))
	require.ErrorIs(t, Write(path, Document{Rows: rows(t)}), ErrNoMark)
}

func TestPlotsAreImages(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, Plots(dir, rows(t)))
	for _, name := range []string{"completion.png", "rate.png", "last.png"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		_, err = png.Decode(bytes.NewReader(data))
		require.NoError(t, err, name)
	}
}
