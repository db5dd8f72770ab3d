package usage

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProcessorTimeAndMemoryOfThisProcess(t *testing.T) {
	before, err := Processor(os.Getpid())
	require.NoError(t, err)
	for used := before; used == before; { // a tick is 10 ms
		used, err = Processor(os.Getpid())
		require.NoError(t, err)
		require.Less(t, used-before, time.Minute)
	}
	memory, err := ReadMemory(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, memory.Resident, int64(1<<20))
	require.GreaterOrEqual(t, memory.Peak, memory.Resident)
}

func TestProcessThatDoesNotExistIsAnError(t *testing.T) {
	_, err := Processor(-1)
	require.ErrorContains(t, err, "process -1")
	_, err = ReadMemory(-1)
	require.ErrorContains(t, err, "process -1")
}

func TestSeriesOfANameAreAddedUp(t *testing.T) {
	sums, err := sum(strings.NewReader(`# HELP a_total How many.
a_total{route="/x y",code="200"} 3
a_total{route="/z} ",code="602"} 4
b 1.5e+06
c 7
`), []string{"a_total", "b", "d"})
	require.NoError(t, err)
	require.Equal(t, map[string]float64{"a_total": 7, "b": 1.5e6}, sums)
	_, err = sum(strings.NewReader("a many\n"), []string{"a"})
	require.ErrorContains(t, err, `value "many" of a`)
}

func TestMetricsOfAServer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte("a 1\n"))
	}))
	defer server.Close()
	sums, err := Metrics(t.Context(), server.URL+"/metrics", "a")
	require.NoError(t, err)
	require.Equal(t, map[string]float64{"a": 1}, sums)
	_, err = Metrics(t.Context(), server.URL, "a")
	require.ErrorContains(t, err, "404")
}
