package server

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnlyLoopbackAndTheBenchmarkNetworkAreMeasured(t *testing.T) {
	for _, c := range []Config{
		{Processes: 1}, {Processes: 4}, {Processes: 1, Address: "127.3.0.1:8002"},
		{Processes: 1, Address: "198.19.0.1:8002", URL: "http://198.18.0.2/f?n="},
		{Processes: 1, Address: "127.0.0.1:8002", URL: "http://127.0.0.1:9000/", PIDs: []int{1}},
	} {
		require.NoError(t, c.Check(), "%+v", c)
	}
	for want, c := range map[string]Config{
		"1 or 4":                   {Processes: 2},
		"there is none":            {Processes: 1, URL: "http://127.0.0.1/"},
		"not an IP address":        {Processes: 1, Address: "localhost:8002"},
		"10.0.0.1:8002 is neither": {Processes: 1, Address: "10.0.0.1:8002"},
		"[::1]:8002 is neither":    {Processes: 1, Address: "[::1]:8002"},
		"cannot reach a source":    {Processes: 1, Address: "198.18.0.1:8002"},
		"not the beginning":        {Processes: 1, Address: "127.0.0.1:8002", URL: "http://127.0.0.1"},
		"8.8.8.8:80 is neither":    {Processes: 1, Address: "127.0.0.1:8002", URL: "http://8.8.8.8/"},
	} {
		require.ErrorContains(t, c.Check(), want)
	}
}
