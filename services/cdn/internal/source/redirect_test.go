package source

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHeadersOfTheClientAreSentToTheFirstOriginOnly(t *testing.T) {
	request := func(url string) *http.Request {
		r, err := http.NewRequest(http.MethodGet, url, nil)
		require.NoError(t, err)
		r.Header = http.Header{"Authorization": {"x"}, "X-Token": {"x"}, "Range": {"bytes=0-1"}, "Referer": {"x"}}
		return r
	}
	for _, c := range []struct {
		name string
		path []string
		kept bool
	}{
		{"same server", []string{"http://a.test/1", "http://a.test/2"}, true},
		{"same server, explicit port", []string{"http://a.test/1", "http://a.test:80/2"}, true},
		{"same server over https", []string{"http://a.test/1", "https://a.test/2"}, true},
		{"same server, no longer https", []string{"https://a.test/1", "http://a.test/2"}, false},
		{"same server, no longer https, ports swapped", []string{"https://a.test:80/1", "http://a.test:443/2"}, false},
		{"other port", []string{"http://a.test/1", "http://a.test:8080/2"}, false},
		{"subdomain", []string{"http://a.test/1", "http://b.a.test/2"}, false},
		{"other host", []string{"http://a.test/1", "http://b.test/2"}, false},
		{"other host, and back", []string{"http://a.test/1", "http://b.test/2", "http://a.test/3"}, false},
	} {
		var via []*http.Request
		for _, url := range c.path {
			via = append(via, request(url))
		}
		last := via[len(via)-1]
		require.NoError(t, checkRedirect(last, via[:len(via)-1]), c.name)
		require.Equal(t, c.kept, last.Header.Get("Authorization") != "", c.name)
		require.Equal(t, c.kept, last.Header.Get("X-Token") != "", c.name)
		require.NotEmpty(t, last.Header.Get("Range"), c.name)
	}
}
