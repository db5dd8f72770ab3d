// Command origin serves made-up files, to try a supernode by hand and to see
// what it asks its source for.
//
// /size/N is a file of N bytes; /chunked/N the same without a length;
// /auth/N the same for those who send "X-Token: let-me-in"; /redirect/N leads
// to /size/N. /stats tells what every path was asked for.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/supernode-ha/supernode/pkg/adminhttp"
	"github.com/supernode-ha/supernode/pkg/lifecycle"
	"github.com/supernode-ha/supernode/test/origin"
)

func main() {
	ctx, stop := lifecycle.SignalContext(context.Background())
	defer stop()
	address := flag.String("address", "127.0.0.1:9090", "where the files are served")
	stats := flag.String("stats", "127.0.0.1:9091", "where /stats is served")
	sizes := flag.String("sizes", "0,300000,9000000,209715200", "the sizes that there are, in bytes")
	flag.Parse()
	if err := serve(ctx, *address, *stats, strings.Split(*sizes, ",")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, address, stats string, sizes []string) error {
	o, err := origin.Start(origin.Config{Address: address})
	if err != nil {
		return err
	}
	defer o.Close()
	var paths []string
	for _, text := range sizes {
		size, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("--sizes: %w", err)
		}
		file := origin.File{Size: size, Seed: uint64(size), ETag: `"v1"`}
		hidden, locked := file, file
		hidden.HideLength = true
		locked.RequireHeader = origin.Header{Name: "X-Token", Value: "let-me-in"}
		for path, f := range map[string]origin.File{
			"/size/": file, "/chunked/": hidden, "/auth/": locked, "/redirect/": {Redirect: "/size/" + text},
		} {
			o.Put(path+text, f)
			paths = append(paths, path+text)
		}
	}
	listener, err := net.Listen("tcp", stats)
	if err != nil {
		return err
	}
	return adminhttp.Serve(ctx, listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		all := make(map[string]origin.Stats)
		for _, path := range paths {
			if s := o.Stats(path); s.Requests > 0 {
				all[path] = s
			}
		}
		_ = json.NewEncoder(w).Encode(all)
	}))
}
