package peer

import (
	"net/http"
	"slices"
	"testing"
)

func FuzzUpload(f *testing.F) {
	f.Add("bytes=0-999", "0", "1000", int64(500))
	f.Add("bytes=9-1", "0", "1000", int64(500))
	f.Add("bytes=1000-1999", "1", "1000", int64(0))
	f.Add("bytes=-5", "-1", "", int64(7))
	f.Fuzz(func(t *testing.T, pieceRange, num, size string, length int64) {
		h := http.Header{}
		h.Set("Range", pieceRange)
		h.Set("pieceNum", num)
		h.Set("pieceSize", size)
		up, err := parseUpload(h)
		if err != nil || length < 0 {
			return
		}
		if err := up.amend(length); err == nil && up.start < 0 {
			t.Fatalf("content at %d of a file", up.start)
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"code":601,"data":[{"range":"0-1","pieceNum":0,"pieceSize":2}]}`))
	f.Add([]byte(`{"code":600,"data":{"md5":"","fileLength":1}}`))
	f.Add([]byte(`{"code":"600"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, data, err := parseEnvelope(body)
		if err != nil {
			return
		}
		offers, err := parseOffers(data)
		if err == nil && slices.Contains(offers, nil) {
			t.Fatal("an offer of nothing")
		}
		_, _ = parseFinished(data)
	})
}
