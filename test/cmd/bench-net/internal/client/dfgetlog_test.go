package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPiecesAreReadFromTheLogOfADfget(t *testing.T) {
	var o Outcome
	require.NoError(t, o.parseLog([]byte(`2026-12-01 04:00:00.100 INFO sign:1-2.3 : downloading piece:{"result":502,"status":700}
2026-12-01 04:00:01.250 INFO sign:1-2.3 : downloading piece:{"range":"0-1048575","result":503}
2026-12-01 04:00:02.000 INFO sign:1-2.3 : downloading piece:{"range":"1048576-2097151","result":500}
2026-12-01 04:00:03.500 INFO sign:1-2.3 : downloading piece:{"range":"1048576-2097151","result":503}
2026-12-01 04:00:04.000 INFO sign:1-2.3 : remaining piece to be written count:0
`)))
	require.Equal(t, 2250*time.Millisecond, o.Last.Sub(o.First))
	require.Equal(t, 1, o.FailedPieces)
	require.False(t, o.NoUploads)
	require.NoError(t, o.parseLog([]byte("… WARN : start peer server error:timeout, change to CDN pattern\n")))
	require.True(t, o.NoUploads)
	require.Error(t, o.parseLog([]byte(`when? downloading piece:{"result":503}`)))
}
