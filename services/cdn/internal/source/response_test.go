package source

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzParseContentRange(f *testing.F) {
	for _, seed := range []string{
		"bytes 0-99/100", "bytes 0-99/*", "bytes 5-1/10", "bytes 0-99/99", "bytes */100", "bytes 0-/9", "", "bytes -1-2/3",
		"bytes 0-9223372036854775807/*",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		s, err := parseContentRange(header)
		require.Equal(t, err == nil, s.valid)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, s.first, int64(0))
		require.GreaterOrEqual(t, s.last, s.first)
		require.True(t, s.total == -1 || s.total > s.last)
	})
}

func FuzzParse(f *testing.F) {
	f.Add("http://user:secret@127.0.0.1:80/path?query#part", "Name: value", "")
	f.Add("https://[::1]/", "Range: bytes=0-1", "d41d8cd98f00b204e9800998ecf8427e")
	f.Add("http://%zz/", ": x", "x")
	f.Fuzz(func(t *testing.T, address, header, md5 string) {
		s, err := Parse(Raw{URL: address, Headers: []string{header}, MD5: md5})
		if err != nil {
			return
		}
		require.Nil(t, s.url.User)
		require.Contains(t, []string{"http", "https"}, s.url.Scheme)
		require.NotEmpty(t, s.Host())
		require.Equal(t, []string{"identity"}, s.header.Values("Accept-Encoding"))
		require.Empty(t, s.header.Values("Host"))
	})
}
