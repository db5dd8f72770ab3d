package record_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func FuzzCheckID(f *testing.F) {
	allowed := regexp.MustCompile(`\A[A-Za-z0-9.:_-]{1,255}\z`)
	for _, seed := range []string{"", "a", "..", "a/b", "10.0.0.1:8003", "ü", "a\x00", "a\n", "\xff", strings.Repeat("x", 256)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		require.Equal(t, allowed.MatchString(id), record.CheckID(id) == nil)
	})
}

func FuzzStripURL(f *testing.F) {
	for _, seed := range []string{
		"http://h/p", "http://u:p@h/p?q=a@b#f", "https://u@[::1]:80", "http://h?x=//a@b", "http:opaque", "http://a@b@c/", "//h/p", "http://h/#@",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := record.StripURL(raw)
		if err != nil {
			require.ErrorIs(t, err, record.ErrInvalid)
			return
		}
		before, _ := url.Parse(raw)
		after, err := url.Parse(got)
		require.NoError(t, err)
		require.Nil(t, after.User)
		require.Empty(t, after.Fragment)
		require.NotContains(t, got, "#")
		before.User, before.Fragment, before.RawFragment = nil, "", ""
		require.Equal(t, before, after)
	})
}

func FuzzCheckEndpoint(f *testing.F) {
	for _, seed := range []string{"", "h:1", ":1", "h:0", "h:65536", "[::1]:9", "h:+1", "a b:1", "h:1\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		if record.CheckEndpoint(endpoint) == nil {
			require.Regexp(t, `^[^\s/]+:[0-9]+$`, endpoint)
		}
	})
}

func TestURLsAreAcceptedUpTo32KiB(t *testing.T) {
	const maxLength = 32 << 10
	long := "http://h/" + strings.Repeat("a", maxLength-len("http://h/"))
	_, err := record.StripURL(long)
	require.NoError(t, err)
	_, err = record.StripURL(long + "a")
	require.ErrorIs(t, err, record.ErrInvalid)
}

func TestStripURLRemovesOnlyCredentialsAndFragment(t *testing.T) {
	got, err := record.StripURL("http://u:p@h/a%2fb|c?sig=%7e+@#f")
	require.NoError(t, err)
	require.Equal(t, "http://h/a%2fb|c?sig=%7e+@", got)
	_, err = record.StripURL("http://u:secret@h:x/")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}
