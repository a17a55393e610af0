// A program in Go. With a listener (LISTEN_FDS) it serves HTTP by net/http: /count, /hash/N, /echo
// and /quit. Otherwise it computes, with goroutines, channels, maps, sorting, JSON and a panic that
// is recovered, and prints what that comes to: `go ROUNDS`.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

func serve() error {
	// A listener that blocks would block all goroutines: Go does not see to that itself here.
	if err := syscall.SetNonblock(3, true); err != nil {
		return err
	}
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	var mutex sync.Mutex
	count := 0
	http.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		mutex.Lock()
		defer mutex.Unlock()
		count++
		fmt.Fprintln(w, count)
	})
	http.HandleFunc("/hash/", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/hash/"))
		fmt.Fprintf(w, "%08x\n", round(n))
	})
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Write(body)
	})
	http.HandleFunc("/quit", func(w http.ResponseWriter, r *http.Request) { os.Exit(0) })
	return http.Serve(listener, nil)
}

type entry struct {
	Name string `json:"name"`
	Sum  int    `json:"sum"`
}

// A pipeline of goroutines, a map, a sort, JSON there and back.
func round(seed int) uint32 {
	hash := fnv.New32a()
	numbers, squares := make(chan int), make(chan int, 4)
	var workers sync.WaitGroup
	for w := 0; w < 3; w++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for n := range numbers {
				squares <- n * n
			}
		}()
	}
	go func() {
		for i := 0; i < 200; i++ {
			numbers <- seed + i
		}
		close(numbers)
		workers.Wait()
		close(squares)
	}()
	sums := map[string]int{}
	for square := range squares {
		sums["s"+strconv.Itoa(square%37)] += square
	}
	var entries []entry
	for name, sum := range sums {
		entries = append(entries, entry{name, sum})
	}
	sort.Slice(entries, func(a, b int) bool { return entries[a].Name < entries[b].Name })
	text, err := json.Marshal(entries)
	if err != nil {
		panic(err)
	}
	var again []entry
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&again); err != nil {
		panic(err)
	}
	for _, e := range again {
		fmt.Fprintf(hash, "%s=%d;", e.Name, e.Sum)
	}
	if err := recovered(seed); err != nil {
		io.WriteString(hash, err.Error())
	}
	return hash.Sum32()
}

func recovered(n int) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("recovered: %v", reason)
		}
	}()
	list := make([]int, n%3)
	list[2] = n
	return errors.New("no panic")
}

func main() {
	if os.Getenv("LISTEN_FDS") != "" {
		fmt.Fprintln(os.Stderr, serve())
		os.Exit(1)
	}
	rounds := 1
	if len(os.Args) > 1 {
		rounds, _ = strconv.Atoi(os.Args[1])
	}
	sum := uint32(0)
	for i := 0; i < rounds; i++ {
		sum = sum*31 + round(i)
	}
	fmt.Printf("rounds %d, checksum %08x\n", rounds, sum)
}
