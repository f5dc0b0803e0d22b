package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	protobuf = "application/vnd.kubernetes.protobuf"
	pollTime = 50 * time.Millisecond
)

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func assert(holds bool, what string, about ...any) {
	if !holds {
		panic(fmt.Sprintf(what, about...))
	}
}

// refused expects an error for one of the API's reasons.
func refused[T any](reason metav1.StatusReason) func(T, error) *metav1.Status {
	return func(value T, err error) *metav1.Status {
		return refusal(reason, err)
	}
}

func refusal(reason metav1.StatusReason, err error) *metav1.Status {
	assert(err != nil, "was not refused: %s", reason)
	assert(apierrors.ReasonForError(err) == reason, "refused as %q instead of %q: %v", apierrors.ReasonForError(err), reason, err)
	status := err.(apierrors.APIStatus).Status()
	return &status
}

// eventually polls until check has an answer.
func eventually(ctx context.Context, what string, check func() bool) {
	for !check() {
		select {
		case <-ctx.Done():
			panic("did not happen: " + what)
		case <-time.After(pollTime):
		}
	}
}

func namespace(ctx context.Context, config *rest.Config, name string) {
	made := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	must(kubernetes.NewForConfigOrDie(config).CoreV1().Namespaces().Create(ctx, made, metav1.CreateOptions{}))
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	labels := map[string]string{"l": "v"}
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: data}
}

// inProtobuf is a copy of a configuration that asks and answers in protobuf.
func inProtobuf(config *rest.Config) *rest.Config {
	copied := rest.CopyConfig(config)
	copied.ContentType, copied.AcceptContentTypes = protobuf, protobuf
	return copied
}

// traffic remembers requests and the formats of their answers.
type traffic struct {
	lock sync.Mutex
	seen []exchange
}

type exchange struct {
	method, url, sent, got string
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) {
	return r(request)
}

// watchOver makes the configuration's clients tell what they say.
func watchOver(config *rest.Config) *traffic {
	found := &traffic{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(request)
			if err == nil {
				sent, got := request.Header.Get("Content-Type"), response.Header.Get("Content-Type")
				found.lock.Lock()
				defer found.lock.Unlock()
				found.seen = append(found.seen, exchange{request.Method, request.URL.String(), sent, got})
			}
			return response, err
		})
	})
	return found
}

func (t *traffic) count(matches func(exchange) bool) (number int) {
	t.lock.Lock()
	defer t.lock.Unlock()
	for _, one := range t.seen {
		if matches(one) {
			number++
		}
	}
	return number
}

// allIn expects that every answer, and every body but a patch's, was in protobuf.
func (t *traffic) allInProtobuf() {
	wrong := t.count(func(one exchange) bool {
		body := one.method == http.MethodPost || one.method == http.MethodPut
		is := !strings.HasPrefix(one.got, protobuf) || body && one.sent != protobuf
		if is {
			fmt.Printf("not in protobuf: %+v\n", one)
		}
		return is
	})
	assert(wrong == 0, "%d exchanges were not in protobuf", wrong)
}
