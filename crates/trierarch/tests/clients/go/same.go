package main

import (
	"context"
	"fmt"
	"strings"

	extensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/discovery"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// Everything that a cluster has from the start is the same in JSON and in protobuf, read with upstream's own types.
func sameInBothFormats(ctx context.Context, config *rest.Config) {
	scheme := runtime.NewScheme()
	check(clientscheme.AddToScheme(scheme))
	check(extensionsv1.AddToScheme(scheme))
	lists := must(discovery.NewDiscoveryClientForConfigOrDie(config).ServerPreferredResources())
	compared := 0
	for _, list := range lists {
		version := must(schema.ParseGroupVersion(list.GroupVersion))
		for _, kind := range list.APIResources {
			listed := version.WithKind(kind.Kind + "List")
			if !strings.Contains(fmt.Sprint(kind.Verbs), "list") || !scheme.Recognizes(listed) {
				continue
			}
			same(ctx, config, scheme, listed, kind.Name)
			compared++
		}
	}
	assert(compared > 50, "only %d kinds were compared", compared)
}

func same(ctx context.Context, config *rest.Config, scheme *runtime.Scheme, kind schema.GroupVersionKind, plural string) {
	read := func(config *rest.Config, options metav1.ListOptions) runtime.Object {
		config = rest.CopyConfig(config)
		version := kind.GroupVersion()
		config.GroupVersion, config.APIPath = &version, "/apis"
		if version.Group == "" {
			config.APIPath = "/api"
		}
		config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
		list := must(scheme.New(kind))
		client := must(rest.RESTClientFor(config))
		err := client.Get().Resource(plural).SpecificallyVersionedParams(&options, clientscheme.ParameterCodec, schema.GroupVersion{Version: "v1"}).Do(ctx).Into(list)
		assert(err == nil, "%v: %v", kind, err)
		return list
	}
	encoded := read(inProtobuf(config), metav1.ListOptions{})
	version := must(meta.ListAccessor(encoded)).GetResourceVersion()
	exact := metav1.ListOptions{ResourceVersion: version, ResourceVersionMatch: metav1.ResourceVersionMatchExact}
	plain := read(config, exact)
	assert(equality.Semantic.DeepEqual(encoded, plain), "%v: %v\nis not\n%v", kind, encoded, plain)
}
